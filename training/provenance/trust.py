"""Trust: whose signatures count, and the keys of others that this SHOAL_HOME trusts.

Deploy walk: cluster.rollout.trust -> [trust.py] -> keys.py
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from training.errors import UserError
from training.provenance.keys import PublicKey, find_own_public_key, read_public_key

ANY, SIGNED = "any", "signed"
OWN_NAME = "this cluster"
RULES = f"{ANY}, {SIGNED}, or PEM files of public keys and folders of them, separated by {os.pathsep!r}"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class TrustedKey:
    """A public key, and what it is called here: the name that it was added by, its file, or OWN_NAME."""

    name: str
    key: PublicKey


@dataclass(frozen=True)
class TrustPolicy:
    """Whose bundles may be deployed.

    Attributes:
        rule: as it was written: any, signed, or files.
        keys: the cluster's own, if it has one, and those of the rule.
    """

    rule: str
    keys: tuple[TrustedKey, ...]

    @property
    def requires_signature(self) -> bool:
        """Whether a bundle has to be signed at all."""
        return self.rule != ANY


def load_policy(home: Path, rule: str) -> TrustPolicy:
    """Load the keys that a rule names; under `any`, too, a trusted signer is told by its name.

    Raises:
        UserError: the rule names no such file, or a file is no public key.
    """
    own = find_own_public_key(home)
    keys = [TrustedKey(OWN_NAME, own)] if own else []
    if rule in (ANY, SIGNED):
        return TrustPolicy(rule, (*keys, *list_trusted_keys(home)))
    for part in filter(None, rule.split(os.pathsep)):
        keys += _read_keys(Path(part).expanduser())
    return TrustPolicy(rule, tuple(keys))


def _read_keys(path: Path) -> list[TrustedKey]:
    if not path.exists():
        raise UserError(f"no public key {path}; trust is one of {RULES}")
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"the folder {path} holds no .pem file; trust is one of {RULES}")
    return [TrustedKey(str(file), read_public_key(file)) for file in files]


def list_trusted_keys(home: Path) -> list[TrustedKey]:
    """The keys of others that this SHOAL_HOME trusts, by name.

    Raises:
        UserError: one of the files is no public key.
    """
    return [TrustedKey(file.stem, read_public_key(file)) for file in sorted(_folder(home).glob("*.pem"))]


def add_trusted_key(home: Path, name: str, file: Path) -> TrustedKey:
    """Trust a public key from now on.

    Raises:
        UserError: the name is none or taken, the file is no public key, or the key is trusted already.
    """
    if not _NAME.fullmatch(name) or name == OWN_NAME:
        raise UserError(f"{name!r} cannot name a key; use letters, digits and ._- (63 at most), as team-a")
    key = read_public_key(file)
    own = find_own_public_key(home)
    if own and own.raw == key.raw:
        raise UserError(f"{file} is this cluster's own key, which is trusted always")
    for each in list_trusted_keys(home):
        if each.key.raw == key.raw:
            raise UserError(f"{file} is trusted already, as {each.name}")
        if each.name == name:
            raise UserError(
                f"{name!r} is the name of another key; take a new one, or `shoal trust remove {name}` first"
            )
    folder = _folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f".{name}.new"
    temporary.write_text(key.pem)
    temporary.rename(folder / f"{name}.pem")
    return TrustedKey(name, key)


def remove_trusted_key(home: Path, name: str) -> TrustedKey:
    """Trust a key no longer; what runs goes on, and does not start anew where signatures are required.

    Raises:
        UserError: no key has this name.
    """
    key = find_trusted_key(home, name)
    (_folder(home) / f"{name}.pem").unlink()
    return key


def find_trusted_key(home: Path, name: str) -> TrustedKey:
    """Find the key of another that is trusted by this name.

    Raises:
        UserError: no key has this name.
    """
    keys = list_trusted_keys(home)
    for each in keys:
        if each.name == name:
            return each
    raise UserError(f"no trusted key {name!r}; there are: {', '.join(each.name for each in keys) or 'none'}")


def _folder(home: Path) -> Path:
    return home / "trusted_keys"

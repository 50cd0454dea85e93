"""Attest: the statements that a cluster signs for a bundle that it publishes, and those that it takes over.

Train walk: training.registry.model_registry -> [attest.py] -> statement.py -> envelope.py -> keys.py
"""

from datetime import UTC, datetime
from pathlib import Path

from training.bundle.manifest import PROVENANCE_FILE, Manifest
from training.errors import UserError
from training.provenance.envelope import sign_statement
from training.provenance.keys import ensure_signing_key
from training.provenance.statement import describe_import, describe_training, list_packages
from training.provenance.trust import ANY, load_policy
from training.provenance.verification import check_attestations
from training.registry.entities import Run


def attest_training(home: Path, manifest: Manifest, run: Run, *, is_driver: bool = True) -> bytes:
    """Sign what a run of this cluster has made; returns the line to store.

    Args:
        home: SHOAL_HOME, whose key signs.
        manifest: of the bundle.
        run: that made it.
        is_driver: whether this process drove the run: only then its packages are known, else what the bundle says.
    """
    key = ensure_signing_key(home)
    packages = list_packages() if is_driver else [(n, v) for n, v in manifest.versions.items() if n != "python"]
    return (sign_statement(describe_training(manifest, run, key.public.id, packages), key) + "\n").encode()


def attest_import(home: Path, manifest: Manifest) -> bytes:
    """Sign that this cluster vouches for a bundle whose origin it does not know; returns the line to store."""
    key = ensure_signing_key(home)
    return (sign_statement(describe_import(manifest, key.public.id, datetime.now(UTC)), key) + "\n").encode()


def check_import(home: Path, content: bytes, manifest: Manifest) -> None:
    """Check the statements that a bundle brings along, as far as keys are known.

    Raises:
        BundleError: the file is not one of envelopes.
        UserError: a statement is about another bundle, or the signature of a key that is trusted here does not match.
    """
    policy = load_policy(home, ANY)
    known = {each.key.id for each in policy.keys}
    for each in check_attestations(content, manifest.name, manifest.digest, policy):
        is_of_bundle = each.statement is not None and each.statement.is_about(manifest.name, manifest.digest)
        is_forged = each.signer is None and not known.isdisjoint(each.key_ids)
        if is_forged or not is_of_bundle:
            raise UserError(
                f"{PROVENANCE_FILE} is not this bundle's: {each.problem}; fetch the bundle again, or delete "
                f"{PROVENANCE_FILE} to import it unsigned"
            )

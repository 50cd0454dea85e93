"""Verification: what the statements beside a bundle are worth, and whether a policy lets it be deployed.

Deploy walk: cluster.rollout.trust -> [verification.py] -> envelope.py -> keys.py
A statement counts if a trusted key has signed it, it is about this bundle's digest, and says where the bundle is from.
Others beside it change nothing, so that nobody can block a bundle by adding one (in-toto's monotonic principle).
"""

from dataclasses import dataclass
from pathlib import Path

from training.bundle.manifest import PROVENANCE_FILE
from training.bundle.verify import MAX_PROVENANCE_BYTES
from training.errors import BundleError, UntrustedBundleError
from training.provenance.envelope import PAYLOAD_TYPE, Envelope, parse_envelopes
from training.provenance.statement import ImportPredicate, Statement, TrainingPredicate, parse_statement
from training.provenance.trust import TrustedKey, TrustPolicy
from training.registry import storage

MAX_LISTED = 4


@dataclass(frozen=True)
class Attestation:
    """One statement beside a bundle, checked.

    Attributes:
        key_ids: of the keys that it says have signed it.
        signer: the trusted key that has; None where none has, and then nothing below is more than a claim.
        problem: why it does not count; "" where it does.
        statement: what it says; None where that cannot be read.
        predicate: of the bundle's origin.
    """

    key_ids: tuple[str, ...]
    signer: TrustedKey | None = None
    problem: str = ""
    statement: Statement | None = None
    predicate: TrainingPredicate | ImportPredicate | None = None


def read_provenance(uri: str) -> bytes | None:
    """Read the statements beside the bundle at `uri`; None where there are none.

    Raises:
        BundleError: there are more than MAX_PROVENANCE_BYTES.
        OSError: they cannot be read.
    """
    try:
        content = storage.read_file(f"{uri}/{PROVENANCE_FILE}", MAX_PROVENANCE_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > MAX_PROVENANCE_BYTES:
        raise BundleError(f"{PROVENANCE_FILE} has more than {MAX_PROVENANCE_BYTES} bytes, the limit; fetch it again")
    return content


def fetch_provenance(uri: str, copy: Path) -> bytes | None:
    """Read the statements of a bundle where it is stored; where the store does not answer, beside the local copy."""
    try:
        return read_provenance(uri)
    except OSError:
        if not copy.is_dir():
            raise
        return read_provenance(str(copy))


def check_attestations(content: bytes | None, name: str, digest: str, policy: TrustPolicy) -> list[Attestation]:
    """Check each statement beside a bundle.

    Args:
        content: of PROVENANCE_FILE; None for none.
        name: of the model that the bundle is taken for: another's is signed as that.
        digest: of the bundle's manifest.
        policy: whose signatures count.

    Raises:
        BundleError: the file is not one of envelopes.
    """
    return [_check(each, name, digest, policy) for each in parse_envelopes(content or b"", PROVENANCE_FILE)]


def _check(envelope: Envelope, name: str, digest: str, policy: TrustPolicy) -> Attestation:
    key_ids = tuple(each.key_id for each in envelope.signatures)
    key = envelope.find_signer(each.key for each in policy.keys)
    signer = next((each for each in policy.keys if each.key == key), None)
    if envelope.payload_type != PAYLOAD_TYPE:
        return Attestation(key_ids, signer, f"its payload is {envelope.payload_type[:100]!r}, not {PAYLOAD_TYPE}")
    try:
        statement = parse_statement(envelope.payload)
    except BundleError as error:
        return Attestation(key_ids, signer, str(error))
    if not statement.is_about(name, digest):
        other = statement.subject[0]
        subject = f"{other.name[:63]!r} with sha256 {other.digest.get('sha256', 'none')[:64]}"
        problem = f"it is about another bundle: its subject is {subject}, this one {name!r} with {digest}"
        return Attestation(key_ids, signer, problem, statement)
    try:
        predicate = statement.parse_predicate()
    except BundleError as error:
        return Attestation(key_ids, signer, str(error), statement)
    return Attestation(key_ids, signer, _explain(key_ids, signer, policy), statement, predicate)


def _explain(key_ids: tuple[str, ...], signer: TrustedKey | None, policy: TrustPolicy) -> str:
    """Why a signature does not count; "" where it does."""
    if signer:
        return ""
    claimed = [each.name for each in policy.keys if each.key.id in key_ids]
    if claimed:
        reason = "the statement was altered, or signed with another key"
        return f"the signature by {claimed[0]} does not match: {reason}; fetch the bundle again"
    listed = ", ".join(key_ids[:MAX_LISTED]) or "without a name"
    return f"it is signed by a key that is not trusted here: {listed}; `shoal trust add NAME FILE` trusts its owner"


def find_signer(content: bytes | None, name: str, digest: str, policy: TrustPolicy) -> tuple[TrustedKey | None, str]:
    """Find who of a policy's keys has signed a bundle.

    Args:
        content: as of `check_attestations`.
        name: as of `check_attestations`.
        digest: as of `check_attestations`.
        policy: whose signatures count.

    Returns:
        The key whose signature counts; or None, and why there is none.
    """
    try:
        attestations = check_attestations(content, name, digest, policy)
    except BundleError as error:
        return None, str(error)
    for each in attestations:
        if each.signer and not each.problem:
            return each.signer, ""
    problems = "; ".join(dict.fromkeys(each.problem for each in attestations[:MAX_LISTED]))
    return None, problems or "it is unsigned; `shoal models sign` vouches for it on this cluster"


def require_trusted(bundle: str, content: bytes | None, digest: str, policy: TrustPolicy) -> None:
    """Require what a policy asks of a bundle.

    Args:
        bundle: NAME:VERSION.
        content: as of `check_attestations`.
        digest: as of `check_attestations`.
        policy: that it must meet.

    Raises:
        UntrustedBundleError: it does not.
    """
    if not policy.requires_signature:
        return
    signer, problem = find_signer(content, bundle.partition(":")[0], digest, policy)
    if signer is None:
        raise UntrustedBundleError(
            f"{bundle} may not be deployed where trust is {policy.rule!r}: {problem}; `shoal models verify {bundle}` "
            "shows more"
        )

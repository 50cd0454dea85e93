"""Provenance of published versions: checked from their files to their signatures, and found from an answer's headers.

Nothing here needs a cluster: what it reads is in the registry, beside the bundles and in the edge's log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cluster.request_lookup import ServedRequest
from cluster.settings import Settings
from training.bundle.verify import FileCheck, check_files, find_manifest, parse_manifest, verify_bundle
from training.errors import BundleError, ServiceError, UserError
from training.provenance.keys import read_public_key
from training.provenance.statement import CODE, DATA, ImportPredicate, TrainingPredicate
from training.provenance.trust import (
    SIGNED,
    TrustedKey,
    TrustPolicy,
    add_trusted_key,
    find_trusted_key,
    load_policy,
    remove_trusted_key,
)
from training.provenance.verification import (
    Attestation,
    check_attestations,
    find_signer,
    read_provenance,
)
from training.registry.entities import IMPORTED_PARAM, Run, Version
from training.registry.model_registry import Registry

if TYPE_CHECKING:
    from training.bundle.manifest import Manifest


def trust_key(settings: Settings, name: str, file: Path) -> TrustedKey:
    """Trust a public key from now on, and record that; see training.provenance.trust.add_trusted_key."""
    from deployments.access.audit.log import AuditLog

    key = read_public_key(file)
    with AuditLog.open(settings).record("trust.add", name, after={"key": key.id}):
        return add_trusted_key(settings.home, name, file)


def distrust_key(settings: Settings, name: str) -> TrustedKey:
    """Trust a key no longer, and record that; see training.provenance.trust.remove_trusted_key."""
    from deployments.access.audit.log import AuditLog

    key = find_trusted_key(settings.home, name).key
    with AuditLog.open(settings).record("trust.remove", name, before={"key": key.id}):
        return remove_trusted_key(settings.home, name)


@dataclass(frozen=True)
class BundleReport:
    """What a check of a version has found.

    Attributes:
        version: that was checked.
        policy: whose signatures count.
        files: each file, as far as the manifest can be read.
        attestations: each statement beside the bundle.
        problem: why it fails; "" where it does not.
    """

    version: Version
    policy: TrustPolicy
    files: list[FileCheck]
    attestations: list[Attestation]
    problem: str


def verify_version(settings: Settings, reference: str, rule: str = "") -> BundleReport:
    """Check every file of a version where it is stored, its digest, and its signatures.

    Args:
        settings: of the registry.
        reference: NAME, NAME:VERSION or NAME@ALIAS.
        rule: whose signatures count (training.provenance.trust.RULES); by default the setting's, or `signed` where that
            asks for none.

    Raises:
        UserError: there is no such version, or the rule names no key.
        ServiceError: its store does not answer.
    """
    registry = Registry(settings)
    version = registry.resolve(reference)
    policy = load_policy(settings.home, rule or (SIGNED if settings.trust == "any" else settings.trust))
    files: list[FileCheck] = []
    attestations: list[Attestation] = []
    problems = []
    try:
        with TemporaryDirectory() as folder:
            # Not the copy in the cache: what is checked is what a new replica would fetch.
            bundle = registry.fetch_bundle(version, Path(folder) / "bundle")
            try:
                files = check_files(bundle, parse_manifest(find_manifest(bundle).read_bytes()))
                verify_bundle(bundle, version.digest)
            except BundleError as error:
                problems.append(str(error))
            content = read_provenance(str(bundle))
        attestations = check_attestations(content, version.name, version.digest, policy)
        signer, reason = find_signer(content, version.name, version.digest, policy)
        if policy.requires_signature and signer is None:
            problems.append(f"no signature that counts: {reason}")
    except BundleError as error:
        problems.append(str(error))
    except OSError as error:
        raise ServiceError(f"{version} cannot be read: {error}; repair the store, or try again") from error
    return BundleReport(version, policy, files, attestations, "; ".join(problems))


@dataclass(frozen=True)
class ModelTrace:
    """Where a model's answer comes from.

    Attributes:
        version: whose bundle computed it.
        manifest: of the bundle; None where it cannot be read.
        run: that made it; None where the registry has none.
        signature: who has signed it, or why nobody that counts.
        is_signed: whether somebody that counts has.
        predicate: of the statement that counts; None for none.
        problem: why the bundle is not the one that answered, or cannot be read; "" for nothing.
    """

    version: Version
    manifest: Manifest | None
    run: Run | None
    signature: str
    is_signed: bool
    predicate: TrainingPredicate | ImportPredicate | None
    problem: str = ""


def trace(settings: Settings, served: ServedRequest) -> list[ModelTrace]:
    """Trace an answer to bundle, run, data and code: of a model, or of each model that a pipeline has called.

    Raises:
        UserError: the registry has no such version.
    """
    registry = Registry(settings)
    if not served.nodes:
        return [_trace_version(settings, registry, _find_version(registry, served), served.digest)]
    published = registry.list_models()
    references = [node for node in served.nodes if node.partition(":")[0] in published]
    return [_trace_version(settings, registry, registry.resolve(reference)) for reference in references]


def _find_version(registry: Registry, served: ServedRequest) -> Version:
    """The version that answered: by its digest, which no other has, or else by name and number."""
    if served.digest:
        versions = registry.list_versions(served.model) if served.model else registry.reader.list_versions()
        matches = [each for each in versions if each.digest.startswith(served.digest)]
        if len({each.digest for each in matches}) > 1:
            raise UserError(f"{len(matches)} versions have a digest that begins {served.digest!r}; give more of it")
        if not matches:
            of_model = f" of {served.model}" if served.model else ""
            raise UserError(
                f"no published version{of_model} has the digest {served.digest!r}; it was deleted, or is of another "
                "registry"
            )
        return matches[0]
    if not served.model or not served.version:
        raise UserError("an answer is found by its model and version, or by its digest; give --digest DIGEST")
    return registry.resolve(f"{served.model}:{served.version}")


def _trace_version(settings: Settings, registry: Registry, version: Version, digest: str = "") -> ModelTrace:
    policy = load_policy(settings.home, SIGNED if settings.trust == "any" else settings.trust)
    problems, manifest, predicate, is_signed = [], None, None, False
    try:
        manifest = registry.read_manifest(version)
    except BundleError as error:
        problems.append(str(error))
    try:
        content = read_provenance(version.uri)
        signer, reason = find_signer(content, version.name, version.digest, policy)
        signature = f"signed by {signer.name} ({signer.key.id})" if signer else f"none that counts: {reason}"
        for each in check_attestations(content, version.name, version.digest, policy) if signer else ():
            if each.signer and not each.problem:
                is_signed, predicate = True, predicate or each.predicate
    except (BundleError, OSError) as error:
        signature = f"none that counts: {error}"
    run = registry.reader.get_run(version.run_id)
    return ModelTrace(version, manifest, run, signature, is_signed, predicate, "; ".join(problems))


def describe_predicate(predicate: TrainingPredicate | ImportPredicate) -> dict[str, Any]:
    """What a signed statement says of a bundle's origin, by short names."""
    if isinstance(predicate, ImportPredicate):
        return {
            "origin": f"{predicate.origin}; imported by {predicate.imported_by} on {predicate.imported_on}",
        }
    metadata, data, code = (
        predicate.run_details.metadata,
        predicate.find_dependency(DATA),
        predicate.find_dependency(CODE),
    )
    return {
        "builder": predicate.run_details.builder.id,
        "run": metadata.invocation_id,
        "started": metadata.started_on,
        "finished": metadata.finished_on,
        "recipe": predicate.build_definition.external_parameters.get("recipe"),
        "data": data.digest.get("sha256") if data else None,
        "commit": code.digest.get("gitCommit") if code else None,
        "packages": len(predicate.packages),
    }


def describe_trace(traced: ModelTrace) -> dict[str, Any]:
    """A trace as JSON: what the bundle says, what the registry knows of its run, and what is signed."""
    manifest, run, version = traced.manifest, traced.run, traced.version
    is_import = run is None or IMPORTED_PARAM in run.params
    return {
        "model": version.name,
        "version": version.version,
        "digest": version.digest,
        "bundle": version.uri,
        "problem": traced.problem,
        "signed": traced.is_signed,
        "signature": traced.signature,
        "run": None if run is None or is_import else {"id": run.run_id, "name": run.name, "status": run.status},
        "imported": is_import,
        "recipe": manifest.recipe if manifest else None,
        "data": manifest.dataset.model_dump(mode="json") if manifest and manifest.dataset else None,
        "commit": manifest.git_commit if manifest else None,
        "metrics": manifest.metrics if manifest else {},
        "statement": describe_predicate(traced.predicate) if traced.predicate else None,
    }

"""What a registry signs, what it takes over, and what it refuses."""

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.provenance.forgery import build_statement, encode, make_key, sign, write_key
from training.bundle.manifest import PROVENANCE_FILE
from training.bundle.verify import MAX_PROVENANCE_BYTES, verify_bundle
from training.errors import BundleError, UserError
from training.provenance.keys import read_signing_key
from training.provenance.trust import SIGNED, add_trusted_key, load_policy
from training.provenance.verification import find_signer, read_provenance
from training.registry.entities import Version
from training.registry.model_registry import Registry
from training.settings import TrainingSettings


@pytest.fixture
def registry(registry_settings: TrainingSettings) -> Registry:
    return Registry(registry_settings)


@pytest.fixture
def other_settings(registry_settings: TrainingSettings, tmp_path: Path) -> TrainingSettings:
    """Another cluster, with an empty registry of its own."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    return TrainingSettings(home=home)


def read_statements(version: Version) -> list[dict[str, Any]]:
    content = read_provenance(version.uri)
    assert content is not None
    return [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in content.splitlines()]


def find_signer_name(settings: TrainingSettings, version: Version) -> str:
    signer, reason = find_signer(
        read_provenance(version.uri), version.name, version.digest, load_policy(settings.home, SIGNED)
    )
    return signer.name if signer else reason


def publish_trained(registry: Registry, folder: Path) -> Version:
    run_id = registry.start_run("flowers-1", {"seed": 0}, recipe={"seed": 0}, origin="my_recipe.py")
    return registry.publish(folder, run_id)


def test_what_a_run_has_made_is_signed_with_all_that_is_known_of_it(
    registry: Registry, registry_settings: TrainingSettings, table_bundle: Path
) -> None:
    version = publish_trained(registry, table_bundle)

    (statement,) = read_statements(version)
    assert find_signer_name(registry_settings, version) == "this cluster"
    assert statement["subject"] == [{"name": "flowers", "digest": {"sha256": version.digest}}]
    build, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    key_id = read_signing_key(registry_settings.home).public.id
    assert details["builder"]["id"] == f"urn:shoal:cluster:{key_id}"
    assert details["metadata"]["invocationId"] == version.run_id
    assert build["externalParameters"]["origin"] == "my_recipe.py"
    packages = [each["uri"] for each in build["resolvedDependencies"]]
    assert any(uri.startswith("pkg:pypi/torch@2.") for uri in packages)
    assert registry.load_manifest(version).digest == version.digest


def test_a_bundle_from_elsewhere_is_unsigned_until_somebody_vouches_for_it(
    registry: Registry, registry_settings: TrainingSettings, table_bundle: Path
) -> None:
    version = registry.publish(table_bundle)
    assert read_provenance(version.uri) is None

    assert registry.sign_version(version)
    assert not registry.sign_version(version)

    (statement,) = read_statements(version)
    assert statement["predicateType"] == "urn:shoal:import:v1"
    assert statement["predicate"]["origin"] == "unknown"
    assert find_signer_name(registry_settings, version) == "this cluster"
    assert registry.load_manifest(version).digest == version.digest


def test_a_version_that_was_trained_before_signatures_were_is_signed_as_trained(
    registry: Registry, registry_settings: TrainingSettings, table_bundle: Path
) -> None:
    version = publish_trained(registry, table_bundle)
    (registry.fetch_bundle(version) / PROVENANCE_FILE).unlink()

    assert registry.sign_version(version)

    (statement,) = read_statements(version)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["predicate"]["runDetails"]["metadata"]["invocationId"] == version.run_id


def test_signatures_travel_with_the_bundles_folder(
    registry: Registry,
    registry_settings: TrainingSettings,
    other_settings: TrainingSettings,
    table_bundle: Path,
    tmp_path: Path,
) -> None:
    publish_trained(registry, table_bundle)
    exported = registry.export_bundle("flowers", tmp_path / "exported")
    elsewhere = Registry(other_settings)

    version = elsewhere.publish(exported)

    assert "not trusted here" in find_signer_name(other_settings, version)
    key = read_signing_key(registry_settings.home)
    add_trusted_key(other_settings.home, "team-a", write_key(tmp_path / "key.pem", key))  # type: ignore[arg-type]
    assert find_signer_name(other_settings, version) == "team-a"
    assert elsewhere.sign_version(version)
    assert [each["predicateType"] for each in read_statements(version)] == [
        "https://slsa.dev/provenance/v1",
        "urn:shoal:import:v1",
    ]


def test_signatures_that_are_another_bundles_or_forged_are_not_imported(
    registry: Registry, registry_settings: TrainingSettings, table_bundle: Path, tmp_path: Path
) -> None:
    digest = verify_bundle(table_bundle).digest
    trusted, stranger = make_key(), make_key()
    add_trusted_key(registry_settings.home, "team-a", write_key(tmp_path / "key.pem", trusted))
    forged = sign(build_statement(digest), stranger)
    forged["signatures"][0]["keyid"] = trusted.public.id
    attacks = {
        "is about another bundle": encode(sign(build_statement("0" * 64), stranger)),
        "signature by team-a does not match": encode(forged),
        "is no DSSE envelope": b"nonsense",
    }

    for reason, content in attacks.items():
        (table_bundle / PROVENANCE_FILE).write_bytes(content)
        with pytest.raises(UserError, match=reason):
            registry.publish(table_bundle)

    assert registry.list_models() == []
    (table_bundle / PROVENANCE_FILE).write_bytes(encode(sign(build_statement(digest), stranger)))
    assert "not trusted here" in find_signer_name(registry_settings, registry.publish(table_bundle))


def test_a_file_of_signatures_is_plain_and_small(table_bundle: Path, tmp_path: Path) -> None:
    file = table_bundle / PROVENANCE_FILE
    file.write_bytes(b" " * (MAX_PROVENANCE_BYTES + 1))
    with pytest.raises(BundleError, match="1048576 is the limit"):
        verify_bundle(table_bundle)
    with pytest.raises(BundleError, match="more than 1048576 bytes, the limit"):
        read_provenance(str(table_bundle))

    file.unlink()
    secret = tmp_path / "secret"
    secret.write_text("what an import must not copy")
    file.symlink_to(secret)
    with pytest.raises(BundleError, match="is no plain file"):
        verify_bundle(table_bundle)

    file.unlink()
    file.mkdir()
    with pytest.raises(BundleError, match="is no plain file"):
        verify_bundle(table_bundle)


def test_no_other_file_can_be_added_beside_the_signatures(table_bundle: Path) -> None:
    (table_bundle / "provenance.intoto.jsonl.txt").write_text("")

    with pytest.raises(BundleError, match="is not listed"):
        verify_bundle(table_bundle)


def test_a_signature_is_added_to_a_copy_in_the_cache_too(
    registry: Registry, registry_settings: TrainingSettings, table_bundle: Path
) -> None:
    version = registry.publish(table_bundle)
    cached = registry_settings.home / "cache" / version.digest
    shutil.copytree(registry.fetch_bundle(version), cached)

    registry.sign_version(version)

    assert read_provenance(str(cached)) == read_provenance(version.uri)
    assert find_signer_name(registry_settings, replace(version, uri=str(cached))) == "this cluster"

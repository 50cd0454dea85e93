import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.small_bundles import save_image
from training.bundle.verify import verify_bundle
from training.errors import BundleError, UserError
from training.registry.model_registry import AlreadyPublished, Registry
from training.settings import TrainingSettings


@pytest.fixture
def registry(registry_settings: TrainingSettings) -> Registry:
    return Registry(registry_settings)


@pytest.fixture
def second_bundle(tmp_path: Path) -> Path:
    """Another bundle of the model in `table_bundle`."""
    save_image(tmp_path / "second", name="flowers")
    return tmp_path / "second"


def test_the_first_version_is_the_champion_and_later_ones_are_not(
    registry: Registry, table_bundle: Path, second_bundle: Path
) -> None:
    first = registry.publish(table_bundle)
    second = registry.publish(second_bundle)

    assert (first.version, second.version) == (1, 2)
    assert registry.resolve("flowers@champion").version == 1
    assert registry.resolve("flowers:2").aliases == ()


def test_a_name_alone_means_the_newest_version(registry: Registry, table_bundle: Path, second_bundle: Path) -> None:
    registry.publish(table_bundle)
    registry.publish(second_bundle)

    assert registry.resolve("flowers").version == 2


def test_a_number_is_no_alias_since_it_is_a_version(registry: Registry, table_bundle: Path) -> None:
    registry.publish(table_bundle)

    with pytest.raises(UserError, match="'2' cannot be an alias: a number is a version; use a word"):
        registry.promote("flowers", 1, "2")


def test_promotion_moves_an_alias(registry: Registry, table_bundle: Path, second_bundle: Path) -> None:
    registry.publish(table_bundle)
    registry.publish(second_bundle)

    registry.promote("flowers", 2, "champion")

    assert registry.resolve("flowers").version == registry.resolve("flowers@champion").version == 2
    assert registry.resolve("flowers:1").aliases == ()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("roses", "no model 'roses'; registered: flowers"),
        ("flowers:7", "no version 7; it has 1"),
        ("flowers@gold", "no alias 'gold'; it has champion"),
        ("flowers:one", "NAME, NAME@alias or NAME:version"),
        ("", "no model ''"),
    ],
)
def test_a_reference_to_nothing_is_refused_with_what_exists(
    registry: Registry, table_bundle: Path, reference: str, message: str
) -> None:
    registry.publish(table_bundle)

    with pytest.raises(UserError, match=message):
        registry.resolve(reference)


@pytest.mark.parametrize("reference", ["flowers", "flowers@champion"])
def test_a_reference_without_a_number_is_refused_where_one_version_must_be_named(
    registry: Registry, table_bundle: Path, reference: str
) -> None:
    registry.publish(table_bundle)

    with pytest.raises(UserError, match="names no version; write NAME:version"):
        registry.resolve_version(reference)
    assert registry.resolve_version("flowers:1").version == 1


def test_export_then_import_is_the_same_bundle(registry: Registry, table_bundle: Path, tmp_path: Path) -> None:
    first = registry.publish(table_bundle)

    registry.export_bundle("flowers:1", tmp_path / "out")
    second = Registry(TrainingSettings(home=tmp_path / "other")).publish(tmp_path / "out")

    assert first.digest == second.digest
    assert verify_bundle(tmp_path / "out").digest == first.digest


def test_a_bundle_that_is_published_already_makes_no_version(registry: Registry, table_bundle: Path) -> None:
    first = registry.publish(table_bundle)

    with pytest.raises(AlreadyPublished, match="published already, as flowers:1") as caught:
        registry.publish(table_bundle)

    assert caught.value.version == first
    assert registry.list_versions("flowers") == [first]


def test_a_deleted_version_is_gone_with_its_files(registry: Registry, table_bundle: Path, second_bundle: Path) -> None:
    first, second = registry.publish(table_bundle), registry.publish(second_bundle)
    folder, other = registry.fetch_bundle(second), registry.fetch_bundle(first)
    run = folder.parent.parent

    assert registry.delete_version("flowers", 2) == second

    assert registry.list_versions("flowers") == [first]
    # With the folders of its run, which held nothing else; all others stay.
    assert not run.exists()
    assert other.exists()
    assert run.parent.exists()
    with pytest.raises(UserError, match="no version 2; it has 1"):
        registry.delete_version("flowers", 2)


def test_other_files_of_a_deleted_versions_run_stay(registry: Registry, table_bundle: Path) -> None:
    folder = registry.fetch_bundle(registry.publish(table_bundle))
    (folder.parent / "notes.txt").write_text("of its author")

    registry.delete_version("flowers", 1)

    assert [path.name for path in folder.parent.iterdir()] == ["notes.txt"]


def test_a_bundle_can_be_published_again_after_its_version_was_deleted(
    registry: Registry, table_bundle: Path, second_bundle: Path
) -> None:
    registry.publish(table_bundle)
    registry.publish(second_bundle)
    registry.delete_version("flowers", 2)

    # A number is never used twice: a deployment may have pinned it.
    assert registry.publish(second_bundle).version == 3


def test_a_version_with_an_alias_is_not_deleted_while_another_could_have_it(
    registry: Registry, table_bundle: Path, second_bundle: Path
) -> None:
    version = registry.publish(table_bundle)
    registry.publish(second_bundle)

    with pytest.raises(UserError, match="flowers:1 has the alias champion; point that at another version"):
        registry.delete_version("flowers", 1)
    assert registry.fetch_bundle(version).is_dir()


def test_an_altered_bundle_is_not_published(registry: Registry, table_bundle: Path) -> None:
    (table_bundle / "example.json").write_text("{}")

    with pytest.raises(BundleError, match=r"example\.json"):
        registry.publish(table_bundle)
    assert registry.list_models() == []


def test_a_published_bundle_that_was_altered_in_the_store_is_refused(registry: Registry, table_bundle: Path) -> None:
    version = registry.publish(table_bundle)
    (registry.fetch_bundle(version) / "README.md").write_text("better than it is")

    with pytest.raises(BundleError, match=r"README\.md"):
        registry.load_manifest(version)


def test_a_manifest_is_read_without_the_other_files(registry: Registry, table_bundle: Path) -> None:
    version = registry.publish(table_bundle)
    folder = registry.fetch_bundle(version)
    (folder / "model.pt2").unlink()

    assert registry.read_manifest(version).name == "flowers"

    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace("flowers", "flawers"))
    with pytest.raises(BundleError, match="altered"):
        registry.read_manifest(version)
    manifest.unlink()
    with pytest.raises(BundleError, match=r"bundle\.json of flowers:1 cannot be read"):
        registry.read_manifest(version)


def test_another_bundle_put_in_the_store_is_refused(registry: Registry, table_bundle: Path, tmp_path: Path) -> None:
    version = registry.publish(table_bundle)
    folder = registry.fetch_bundle(version)
    shutil.rmtree(folder)
    save_image(folder, name="flowers")

    with pytest.raises(BundleError, match="registry pinned"):
        registry.load_manifest(version)


def test_runs_keep_parameters_and_a_metric_per_epoch(registry: Registry, tmp_path: Path) -> None:
    run = registry.start_run("a-run", {"optimizer.lr": 0.1})
    for epoch, loss in enumerate((2.0, 1.0), start=1):
        registry.log_metrics(run, {"loss": loss}, step=epoch)
    registry.end_run(run, "FINISHED")

    # Read as any MLflow client does: from the store itself.
    with sqlite3.connect(tmp_path / "home" / "registry.db") as store:
        assert store.execute("select value from params where key = 'optimizer.lr'").fetchall() == [("0.1",)]
        assert store.execute("select step, value from metrics order by step").fetchall() == [(1, 2.0), (2, 1.0)]
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]


def test_an_imported_bundle_gets_a_run_of_its_own(registry: Registry, table_bundle: Path) -> None:
    version = registry.publish(table_bundle)

    assert version.run_id
    assert version.uri.endswith(f"{version.run_id}/artifacts/bundle")


def test_the_only_version_can_be_deleted_with_its_aliases_and_the_next_is_champion(
    registry: Registry, table_bundle: Path
) -> None:
    manifest = registry.publish(table_bundle)
    assert manifest.aliases == ("champion",)

    registry.delete_version("flowers", 1)

    assert registry.list_models() == []
    again = registry.publish(table_bundle)
    assert again.aliases == ("champion",)
    assert registry.resolve("flowers@champion") == again

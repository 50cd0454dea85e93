import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import save_image
from training.bundle.load import verify_bundle
from training.errors import BundleError, UserError
from training.registry.model_registry import Registry
from training.settings import TrainingSettings


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(TrainingSettings(home=tmp_path / "home"))


def test_the_first_version_is_the_champion_and_later_ones_are_not(registry: Registry, table_bundle: Path) -> None:
    first = registry.publish(table_bundle)
    second = registry.publish(table_bundle)

    assert (first.version, second.version) == (1, 2)
    assert registry.resolve("flowers").version == 1
    assert registry.resolve("flowers:2").aliases == ()


def test_promotion_moves_an_alias(registry: Registry, table_bundle: Path) -> None:
    registry.publish(table_bundle)
    registry.publish(table_bundle)

    registry.promote("flowers", 2, "champion")

    assert registry.resolve("flowers").version == registry.resolve("flowers@champion").version == 2


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("roses", "no model 'roses'; registered: flowers"),
        ("flowers:7", "no version 7; it has 1"),
        ("flowers@gold", "no alias 'gold'; it has champion"),
        ("flowers:one", "NAME, NAME@alias or NAME:version"),
        ("", "no model ''"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(
    registry: Registry, table_bundle: Path, reference: str, said: str
) -> None:
    registry.publish(table_bundle)

    with pytest.raises(UserError, match=said):
        registry.resolve(reference)


def test_export_then_import_is_the_same_bundle(registry: Registry, table_bundle: Path, tmp_path: Path) -> None:
    first = registry.publish(table_bundle)

    registry.export_bundle("flowers:1", tmp_path / "out")
    second = registry.publish(tmp_path / "out")

    assert first.digest == second.digest
    assert verify_bundle(tmp_path / "out").digest == first.digest


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


def test_another_bundle_put_in_the_store_is_refused(registry: Registry, table_bundle: Path, tmp_path: Path) -> None:
    version = registry.publish(table_bundle)
    kept = registry.fetch_bundle(version)
    shutil.rmtree(kept)
    save_image(kept, name="flowers")

    with pytest.raises(BundleError, match="registry pinned"):
        registry.load_manifest(version)


def test_runs_keep_parameters_and_a_metric_per_epoch(registry: Registry, tmp_path: Path) -> None:
    run = registry.start_run("a-run", {"optimiser.lr": 0.1})
    for epoch, loss in enumerate((2.0, 1.0), start=1):
        registry.log_metrics(run, {"loss": loss}, step=epoch)
    registry.end_run(run, "FINISHED")

    # Read as any MLflow client does: from the store itself.
    with sqlite3.connect(tmp_path / "home" / "registry.db") as store:
        assert store.execute("select value from params where key = 'optimiser.lr'").fetchall() == [("0.1",)]
        assert store.execute("select step, value from metrics order by step").fetchall() == [(1, 2.0), (2, 1.0)]
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]


def test_a_model_not_made_here_gets_a_run_of_its_own_with_its_scores(registry: Registry, table_bundle: Path) -> None:
    version = registry.publish(table_bundle)

    assert version.run_id
    assert version.uri.endswith(f"{version.run_id}/artifacts/bundle")

"""How a run that has trained ends: its bundle is published once. tests/e2e has the runs themselves."""

from pathlib import Path

import pytest

from training.errors import ServiceError
from training.registry.model_registry import Registry
from training.run.driver import FinishedRun, publish_bundle
from training.settings import TrainingSettings

REPORT = {"epoch": 3, "loss": 0.1, "test_accuracy": 0.9, "best_epoch": 2}


@pytest.fixture
def finished(registry_settings: TrainingSettings, table_bundle: Path) -> FinishedRun:
    registry = Registry(registry_settings)
    run_id = registry.start_run("flowers-0102", {})
    return FinishedRun(registry, run_id, "flowers-0102", table_bundle, REPORT)


def test_a_run_ends_with_a_published_version_and_its_metrics_on_the_test_split(finished: FinishedRun) -> None:
    result = publish_bundle(finished)

    assert (str(result.version), result.version.run_id) == ("flowers:1", finished.run_id)
    assert result.metrics == {"test_accuracy": 0.9}
    assert result.final_report == REPORT


def test_a_run_that_published_before_its_driver_died_ends_with_that_version(finished: FinishedRun) -> None:
    first = publish_bundle(finished)

    assert publish_bundle(finished).version == first.version
    assert [str(version) for version in finished.registry.list_versions("flowers")] == ["flowers:1"]


def test_a_bundle_that_cannot_be_stored_is_one_line_with_the_remedy(table_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "full").write_text("a file, where the store should be a folder")
    registry = Registry(TrainingSettings(home=tmp_path / "home", artifacts_uri=str(tmp_path / "full" / "artifacts")))
    run_id = registry.start_run("flowers-0102", {})

    with pytest.raises(ServiceError, match=r"^the bundle cannot be stored: .*`shoal train --resume flowers-0102`$"):
        publish_bundle(FinishedRun(registry, run_id, "flowers-0102", table_bundle, REPORT))

"""Fixtures of bundles that many tests share."""

import pytest

from tests.deployments.local_models import LocalModels
from tests.deployments.small_models import add_all_models


@pytest.fixture(scope="session")
def all_models(tmp_path_factory: pytest.TempPathFactory) -> LocalModels:
    models = LocalModels(tmp_path_factory.mktemp("models"))
    add_all_models(models)
    return models


@pytest.fixture
def models(all_models: LocalModels) -> LocalModels:
    all_models.reset()
    return all_models

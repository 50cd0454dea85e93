"""Bundles that several tests of pipelines share."""

import pytest

from tests.deployments.local_models import LocalModels
from tests.deployments.small_models import add_all


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> LocalModels:
    models = LocalModels(tmp_path_factory.mktemp("models"))
    add_all(models)
    return models


@pytest.fixture
def models(everything: LocalModels) -> LocalModels:
    everything.forget()
    return everything

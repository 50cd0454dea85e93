"""Every module leaves the session's cluster with `flowers` and `images` alone: the next one needs its CPUs."""

from collections.abc import Iterator

import pytest

from cluster.local.running_cluster import find_cluster
from cluster.rollout.serve_api import ServeApi
from cluster.settings import Settings
from deployments.state.store import DeploymentStore

OF_THE_SESSION = ("flowers", "images")


@pytest.fixture(autouse=True, scope="module")
def undeploy_all(settings: Settings) -> Iterator[None]:
    yield
    cluster = find_cluster(settings)
    if cluster is None:
        return
    store = DeploymentStore.open(settings)
    names = {record.name for record in store.list_records()}.difference(OF_THE_SESSION)
    if names:
        for name in names:
            store.delete_record(name)
        with ServeApi(settings, cluster) as serve:
            serve.put_config(store.list_records())
            serve.wait(lambda applications: not names & applications.keys(), lambda status: None)

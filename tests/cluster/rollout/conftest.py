"""A cluster whose dashboard is a stand-in."""

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from cluster.local.running_cluster import Cluster
from tests.cluster.rollout.dashboard import Dashboard


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    Dashboard.applications, Dashboard.broken, Dashboard.puts = {}, set(), 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Cluster(
            gcs_port=1,
            http_port=2,
            grpc_port=3,
            dashboard_port=server.server_port,
            client_host="127.0.0.1",
            shared_settings={},
            head="",
        )
        server.shutdown()

"""Metering under kill -9: what a client counts and what is metered are the same requests, each once."""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from cluster.local import secrets
from cluster.local.processes import find_owned
from cluster.local.running_cluster import Cluster, cluster_id, require_cluster, temp_dir
from cluster.settings import Settings
from deployments.state.usage_tables import REQUESTS, SUMS, open_usage
from tests.conftest import make_shoal_cli, publish_and_deploy, wait_until
from tests.small_bundles import save_table

pytestmark = pytest.mark.soak

TENSOR = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}
LOAD_S, RATE, KILL_INTERVAL_S = 60.0, 40.0, 2.5
# By what their command lines say; HAProxy's is its binary's name.
REPLICA, EDGE = "ServeReplica:flowers", "ServeReplica:shoal.edge"
VICTIMS = (REPLICA, REPLICA, "Collector", EDGE, "haproxy", "Directory")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Cluster]]:
    """A cluster that keeps each request, with a model of two replicas."""
    home = tmp_path_factory.mktemp("traced")
    shoal = make_shoal_cli(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_USAGE__TRACE_DAYS", "1")
        settings = Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0)
        try:
            result = shoal("up", env={"SHOAL_USAGE__TRACE_DAYS": "1"})
            assert result.returncode == 0, result.stderr
            cluster = require_cluster(settings)
            save_table(home / "bundle")
            publish_and_deploy(settings, cluster, home / "bundle")
            assert shoal("deploy", "flowers", "--min-replicas", "2", "--max-replicas", "2").returncode == 0
            yield settings, cluster
        finally:
            shoal("down")


class Load:
    """Sends requests at a rate, whatever becomes of them, and never one again."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
        self._headers = {"authorization": f"Bearer {key}"}
        self._url = f"{cluster.url}/v2/models/flowers/infer"
        self.statuses: dict[str, int] = {}
        self.errors: dict[str, str] = {}

    async def run(self, duration_s: float) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        async with httpx.AsyncClient(headers=self._headers, trust_env=False, timeout=60, limits=limits) as http:
            loop = asyncio.get_running_loop()
            started_s, tasks = loop.time(), []
            for number in range(int(duration_s * RATE)):
                await asyncio.sleep(max(0.0, started_s + number / RATE - loop.time()))
                tasks.append(loop.create_task(self._send(http, f"request-{number}")))
            await asyncio.gather(*tasks)

    async def _send(self, http: httpx.AsyncClient, request_id: str) -> None:
        try:
            body = {"inputs": [TENSOR]}
            response = await http.post(self._url, json=body, headers={"x-request-id": request_id})
            self.statuses[request_id] = response.status_code
        except httpx.HTTPError as error:
            self.errors[request_id] = type(error).__name__


def kill_one(settings: Settings, victim: str) -> bool:
    owned = find_owned(cluster_id(settings.home), temp_dir(settings.home))
    matching = []
    for process in owned:
        try:
            if victim in " ".join(process.cmdline()):
                matching.append(process)
        except Exception:
            continue
    if not matching:
        return False
    os.kill(random.choice(matching).pid, signal.SIGKILL)
    return True


def read_metered(settings: Settings) -> tuple[Counter[str], int]:
    """How often each request's id was answered by the trail, and how many requests the sums have."""
    engine = open_usage(settings.platform)
    with engine.connect() as connection:
        ids = connection.execute(select(REQUESTS.c.request_id).where(REQUESTS.c.status < 300)).scalars().all()
        total = connection.execute(select(func.sum(SUMS.c.requests))).scalar()
    engine.dispose()
    return Counter(ids), int(total or 0)


@pytest.mark.timeout(900)
def test_what_a_client_counts_is_what_is_metered_whatever_is_killed(
    traced: tuple[Settings, Cluster], tmp_path: Path
) -> None:
    settings, cluster = traced
    load, killed = Load(settings, cluster), Counter[str]()
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(KILL_INTERVAL_S):
            victim = random.choice(VICTIMS)
            killed[victim] += kill_one(settings, victim)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        asyncio.run(load.run(LOAD_S))
    finally:
        ended.set()
        killer.join()
    answered = {each for each, status in load.statuses.items() if status == 200}

    def is_settled() -> bool:
        return answered <= read_metered(settings)[0].keys()

    settled_s = time.monotonic()
    wait_until(is_settled, 60)
    settled_s = time.monotonic() - settled_s
    time.sleep(5)
    metered, total = read_metered(settings)
    report: dict[str, Any] = {
        "sent": int(LOAD_S * RATE),
        "answered": len(answered),
        "metered": total,
        "statuses": Counter(load.statuses.values()),
        "broken": Counter(load.errors.values()),
        "killed": killed,
        "settled_s": round(settled_s, 1),
        "metered_of_broken": len(metered.keys() - answered),
    }
    print(json.dumps(report))
    (tmp_path / "report.json").write_text(json.dumps(report))

    assert sum(killed.values()) >= 5, report
    assert answered - metered.keys() == set(), report
    assert max(metered.values()) == 1, report
    assert total == len(metered), report
    # A replica has sent these to HAProxy, which was killed before the caller had them.
    assert metered.keys() - answered <= load.errors.keys(), report

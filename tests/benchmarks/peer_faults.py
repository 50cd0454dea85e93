"""The faults of Ray Serve as documented, beside those of faults.py: the same client, its processes, its recovery."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster.local.ports import Ports
from tests.benchmarks.fault_injection import OUTAGE_S
from tests.open_loop import OpenLoop, Step, encode_request, schedule_arrivals

PEER = Path(__file__).parent / "other_frameworks" / "ray_serve_peer.py"
START_TIMEOUT_S, BEFORE_S, TIMEOUT_S = 60.0, 3.0, 30.0
BODY = json.dumps({"inputs": [[0.5] * 64]}).encode()
# By the names of faults.py: what is killed or stopped, and the number of replicas. Its proxy is what HAProxy is here.
FAULTS = {
    "none": ("", "", 2),
    "replica killed": ("kill", "ServeReplica:default:Model", 2),
    "replica stopped": ("suspend", "ServeReplica:default:Model", 2),
    "only replica killed": ("kill", "ServeReplica:default:Model", 1),
    "only replica stopped": ("suspend", "ServeReplica:default:Model", 1),
    "haproxy killed": ("kill", "ProxyActor", 2),
    "haproxy stopped": ("suspend", "ProxyActor", 2),
    "controller killed": ("kill", "ServeController", 2),
    "gcs killed": ("kill", "gcs/gcs_server", 2),
}

Summarize = Callable[[OpenLoop, float], dict[str, Any]]


def measure_ray_serve(
    names: list[str], summarize: Summarize, report: Callable[[dict[str, Any]], None], seconds: float, rate: float
) -> list[dict[str, Any]]:
    """Measure those of the faults that it has, each on a cluster of its own."""
    rows = []
    for name in names:
        if name in FAULTS:
            action, part, replicas = FAULTS[name]
            with run_peer(replicas) as (process, url):
                row = {"fault": name} | measure(process, url, action, part, summarize, seconds, rate)
            report(row)
            rows.append(row)
    return rows


@contextlib.contextmanager
def run_peer(replicas: int) -> Iterator[tuple[psutil.Process, str]]:
    """Run it until it answers."""
    port = Ports().pick_free()
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, str(PEER), str(port), folder, str(replicas)]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process, url = psutil.Process(running.pid), f"http://127.0.0.1:{port}"
        family = [process]
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not is_answering(url):
                if running.poll() is not None or time.monotonic() > deadline:
                    sys.exit("Ray Serve does not start")
                time.sleep(0.5)
            family += process.children(recursive=True)
            yield process, url
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                family += process.children(recursive=True)
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            running.wait()


def is_answering(url: str) -> bool:
    """Whether a request is answered."""
    with contextlib.suppress(httpx.HTTPError):
        headers = {"content-type": "application/json"}
        return (
            httpx.post(f"{url}/predict", content=BODY, headers=headers, trust_env=False, timeout=5).status_code == 200
        )
    return False


def measure(
    process: psutil.Process, url: str, action: str, part: str, summarize: Summarize, seconds: float, rate: float
) -> dict[str, Any]:
    """Hammer it, and break a part of it."""
    arrivals_s = schedule_arrivals([Step(BEFORE_S + seconds, rate)], "poisson", seed=1)
    request = encode_request(url, "/predict", BODY, {"content-type": "application/json"})
    with OpenLoop(url, arrivals_s, request, timeout_s=TIMEOUT_S) as load:
        time.sleep(BEFORE_S)
        at_s = load.now_s()
        for victim in find_victims(process, part)[:1]:
            getattr(victim, action)()
            if action == "suspend":
                time.sleep(OUTAGE_S)
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.resume()
        load.wait()
    return summarize(load, at_s)


def find_victims(process: psutil.Process, part: str) -> list[psutil.Process]:
    """Its processes whose command line holds a text."""
    victims = []
    for each in process.children(recursive=True) if part else []:
        with contextlib.suppress(psutil.Error):
            if part in " ".join(each.cmdline()):
                victims.append(each)
    return victims

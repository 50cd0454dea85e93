"""Faults: what callers see while a part of the cluster dies, stops or lacks what it needs.

python tests/benchmarks/faults.py [--only FAULT ...] [--seconds 25] [--rate 50] [--ray-serve] [--json]
python tests/benchmarks/faults.py --requests 1000000     # memory of edge and replicas

An open-loop client (tests/open_loop.py) sends idempotent requests on a clock, before the fault and long after, without
retries of its own, and accounts for each. `slowest` is from the scheduled arrival to the answer; `recovery` from the
fault to the last request that failed or took longer than 0.5 s and three times the slowest one before it.
`--ray-serve` does to Ray Serve as documented (other_frameworks/ray_serve_peer.py) what can be done to it, too.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks.benchmark_cluster import BenchmarkCluster
from tests.benchmarks.fault_injection import FAULTS, NODE, PAIR, SETTINGS, SINGLE, Fault, World
from tests.benchmarks.peer_faults import measure_ray_serve
from tests.open_loop import OpenLoop, Step, encode_request, schedule_arrivals
from tests.small_bundles import save_table

BEFORE_S, TIMEOUT_S = 3.0, 30.0
# What a request took longer than this is not recovered, whatever was usual before.
SLOW_S = 0.5
BODY = json.dumps({"inputs": [[5.1, 3.5, 1.4, 0.2]]}).encode()


def measure(world: World, url: str, key: str, fault: Fault, seconds: float, rate: float) -> dict[str, Any]:
    """Hammer a model, inject a fault after BEFORE_S, and tell what became of the requests."""
    arrivals_s = schedule_arrivals([Step(BEFORE_S + seconds, rate)], "poisson", seed=1)
    headers = {"authorization": key, "content-type": "application/json"}
    request = encode_request(url, f"/v2/models/{fault.model}/predict", BODY, headers)
    with OpenLoop(url, arrivals_s, request, timeout_s=TIMEOUT_S) as load:
        time.sleep(BEFORE_S)
        at_s = load.now_s()
        with fault.inject(world):
            load.wait()
    return summarize(load, at_s)


def summarize(load: OpenLoop, at_s: float) -> dict[str, Any]:
    """Tell what became of the requests of a load, with a fault at a time of it."""
    outcomes = load.outcomes
    before_s = outcomes.latency_s[outcomes.is_ok & (outcomes.finished_s < at_s)]
    usual_s = max(SLOW_S, 3 * float(before_s.max(initial=0.0)))
    is_hurt = (~outcomes.is_ok | (outcomes.latency_s > usual_s)) & (outcomes.finished_s > at_s)
    failures = {label: count for label, count in outcomes.count().items() if label != "200"}
    return {
        "sent": len(outcomes),
        "failed": int((~outcomes.is_ok).sum()),
        "slowest_s": round(float(np.nanmax(outcomes.latency_s)), 2),
        "recovery_s": round(float((outcomes.finished_s[is_hurt] - at_s).max(initial=0.0)), 2),
        "failures": failures,
    }


def run_group(names: list[str], setting: str, *, seconds: float, rate: float) -> list[dict[str, Any]]:
    """Measure faults one after the other in a cluster of one setting."""
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)))
        environment = stack.enter_context(SETTINGS[setting](folder)) if setting in SETTINGS else {}
        cluster = stack.enter_context(BenchmarkCluster(folder, environment))
        world = World(cluster.home, dict(os.environ))
        if setting == NODE:
            world.add_node()
        for model, replicas in ((PAIR, "2"), (SINGLE, "1")):
            save_table(folder / model, name=model)
            cluster.deploy(
                folder / model, model, "--cpus", "0.1", "--min-replicas", replicas, "--max-replicas", replicas
            )
        for name in names:
            fault = FAULTS[name]
            row = {"fault": name} | measure(world, cluster.url, cluster.key, fault, seconds, rate)
            print_row(row)
            rows.append(row)
            wait_for_replicas(world)
    return rows


def wait_for_replicas(world: World, timeout_s: float = 120.0) -> None:
    """Wait until Serve has replaced what a fault took, so that the next one finds everything there."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        counts = [len(world.list_processes(f"ServeReplica:{model}:")) for model in (PAIR, SINGLE, "shoal.edge")]
        if counts == [2, 1, 1]:
            time.sleep(3)  # the newest one loads its net
            return
        time.sleep(0.5)
    print("the replicas did not come back in time; the next row starts without some", file=sys.stderr)


def measure_memory(requests: int, connections: int = 64) -> dict[str, Any]:
    """Send requests in a closed loop with wrk; compare the memory of edge and replicas after a tenth and at the end."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, BenchmarkCluster(Path(folder)) as cluster:
        save_table(Path(folder) / PAIR, name=PAIR)
        cluster.deploy(Path(folder) / PAIR, PAIR, "--cpus", "0.5", "--min-replicas", "2", "--max-replicas", "2")
        world = World(cluster.home, dict(os.environ))
        script = cluster.write_script(f"{PAIR}/predict", BODY, {"Content-Type": "application/json"})
        sent, first_mb = 0, dict[str, float]()
        while sent < requests:
            measured = cluster.measure(script, connections, 10)
            sent += round(measured["requests_per_s"] * 10)
            if not first_mb and sent >= requests / 10:
                first_mb = read_memory_mb(world)
        last_mb = read_memory_mb(world)
    growth = {name: round(last_mb[name] / first_mb[name] - 1, 4) for name in first_mb}
    return {"requests": sent, "after_a_tenth_mb": first_mb, "at_the_end_mb": last_mb, "growth": growth}


def read_memory_mb(world: World) -> dict[str, float]:
    """Resident memory of HAProxy, of the edge's process and of each replica."""
    parts = {"haproxy": "haproxy -db", "edge": "ServeReplica:shoal.edge", "replica": f"ServeReplica:{PAIR}"}
    memory = {}
    for name, part in parts.items():
        for number, process in enumerate(sorted(world.list_processes(part), key=lambda each: each.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory[f"{name} {number}"] = round(process.memory_info().rss / 2**20, 1)
    return memory


def print_row(row: dict[str, Any]) -> None:
    """Print one row of the table."""
    others = " ".join(f"{label}:{count}" for label, count in row["failures"].items())
    figures = f"{row['sent']:>6} {row['failed']:>6} {row['slowest_s']:>8.2f} {row['recovery_s']:>8.2f}"
    print(f"{row['fault']:<34}{figures}  {others}", flush=True)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--seconds", type=float, default=25.0, help="that requests go on after a fault")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--requests", type=int, default=0, help="measure memory over so many requests instead")
    parser.add_argument("--ray-serve", action="store_true", help="measure Ray Serve as documented too")
    parser.add_argument("--json", action="store_true", help="print the results as JSON in the last line")
    arguments = parser.parse_args()
    if arguments.requests:
        print(json.dumps(measure_memory(arguments.requests)))
        return
    print(f"{'fault':<34}{'sent':>6} {'failed':>6} {'slowest':>8} {'recovery':>8}  (seconds)")
    options = {"seconds": arguments.seconds, "rate": arguments.rate}
    rows = []
    for setting, group in itertools.groupby(arguments.only, lambda name: FAULTS[name].setting):
        # A node that was taken away does not come back.
        for names in [[name] for name in group] if setting == NODE else [list(group)]:
            rows += run_group(names, setting, **options)
    result: dict[str, Any] = {"faults": rows}
    if arguments.ray_serve:
        print("Ray Serve as documented:")
        result["ray_serve"] = measure_ray_serve(arguments.only, summarize, print_row, **options)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

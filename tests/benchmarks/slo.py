"""Goals: models deployed with a latency goal alone, at a share of what their profiles predict; is p99 within the goal?

Each recipe is trained for an epoch (weights do not change its speed), deployed with --slo-p99, and hammered by the
open-loop client with Poisson arrivals and with bursts (gamma gaps, coefficient of variation 2). Beside it stands what
`shoal plan` says of the same rate, and how many replicas the autoscaler ran.

Client, HAProxy and replicas share this machine's cores, and a prediction is that of a replica which has its core:
requests get as many rows as keep their rate under --max-rate, which the client and HAProxy can send beside a replica
on two cores.

    python tests/benchmarks/slo.py [--seconds 20] [--share 0.7] [--models digits-mlp digits-cnn sentiment-transformer]
        [--max-rate 400] [--plot slo.png] [--json]
"""

import argparse
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from tests.benchmarks.benchmark_cluster import BenchmarkCluster
from tests.load_outcomes import Outcomes
from tests.open_loop import OpenLoop, Step, encode_request, schedule_arrivals

SLO_S = {"digits-mlp": 0.05, "digits-cnn": 0.05, "sentiment-transformer": 0.25}
PROCESSES: dict[str, tuple[Literal["poisson", "gamma"], float]] = {
    "poisson": ("poisson", 1.0),
    "bursty": ("gamma", 2.0),
}
MAX_REPLICAS = 2
STATUS_INTERVAL_S = 2.0
# Before each measured run, so that the autoscaler has settled.
SETTLE_S = 5.0


class Run(NamedTuple):
    """One measured load."""

    result: dict[str, Any]
    outcomes: Outcomes


def main() -> None:
    """Measure, print a table, write the plot, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="length of each load")
    parser.add_argument("--share", type=float, default=0.7, help="of the rate that the profile predicts")
    parser.add_argument("--models", nargs="+", default=list(SLO_S), help="recipes")
    parser.add_argument("--slo-p99", type=float, help="goal of all; by default 50 ms, and 250 ms of the Transformer")
    parser.add_argument("--max-rate", type=float, default=400, help="requests per second that are sent at most")
    parser.add_argument("--plot", type=Path, default=Path("slo.png"), help="where the plot goes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name, BenchmarkCluster(Path(name)) as cluster:
        for model in arguments.models:
            runs += measure(cluster, model, arguments)
    report([run.result for run in runs])
    plot(runs, arguments.plot)
    if arguments.json:
        print(json.dumps({"slo": [run.result for run in runs]}))


def measure(cluster: BenchmarkCluster, model: str, arguments: argparse.Namespace) -> list[Run]:
    """Train, deploy with a goal, and measure one model with both arrival processes."""
    slo_s = arguments.slo_p99 or SLO_S.get(model, 0.1)
    cluster.run("train", model, "--workers", "1", "--set", "stop.epochs=1")
    cluster.run("deploy", model, "--slo-p99", str(slo_s), "--max-replicas", str(MAX_REPLICAS))
    (profile,) = json.loads(cluster.run("profile", model, "--json"))["profiles"]
    if not profile["max_rps"]:
        sys.exit(f"{model}: an idle replica does not answer within {slo_s:g} s here; give a larger --slo-p99")
    rows, predicted = choose_rows(cluster, model, slo_s, arguments)
    rate = arguments.share * predicted
    example = httpx.get(f"{cluster.url}/v2/models/{model}/example", headers={"authorization": cluster.key}).json()
    body = json.dumps(example | {"inputs": (example["inputs"] * rows)[:rows]}).encode()
    path, headers = f"/v2/models/{model}/predict", {"authorization": cluster.key, "content-type": "application/json"}
    request = encode_request(cluster.url, path, body, headers)
    runs = []
    for name, (process, cv) in PROCESSES.items():
        plan = make_plan(cluster, model, slo_s, rate, rows, cv)
        load(cluster, request, schedule_arrivals([Step(SETTLE_S, rate)], process, cv=cv, seed=2))
        outcomes, replicas = load(
            cluster, request, schedule_arrivals([Step(arguments.seconds, rate)], process, cv=cv, seed=1), model
        )
        summary = outcomes.summarize(slo_s)
        result = {
            "model": model,
            "arrivals": name,
            "slo_s": slo_s,
            "rows": rows,
            "predicted_rps": round(predicted, 1),
            "rate": round(rate, 1),
            "pass_rows": profile["pass_rows"],
            "p50_s": summary["p50_s"],
            "p99_s": summary["p99_s"],
            "within": round(float((outcomes.latency_s[outcomes.is_ok] <= slo_s).sum() / len(outcomes)), 4),
            "is_met": bool(summary["p99_s"] <= slo_s and outcomes.is_ok.mean() >= 0.99),
            "failed": int((~outcomes.is_ok).sum()),
            "planned_p99_s": round(plan["p99_s"], 5),
            "planned_replicas": plan["replicas"],
            "replicas": replicas,
            "send_lag_p99_s": summary["send_lag_p99_s"],
        }
        runs.append(Run(result, outcomes))
    cluster.run("undeploy", model)
    return runs


def choose_rows(
    cluster: BenchmarkCluster, model: str, slo_s: float, arguments: argparse.Namespace
) -> tuple[int, float]:
    """Choose the rows of a request; returns them, and the requests per second that the profile predicts."""
    for rows in (1, 2, 4, 8, 16, 32, 64, 128):
        predicted = make_plan(cluster, model, slo_s, 1.0, rows)["max_rps_per_replica"]
        if arguments.share * predicted <= arguments.max_rate:
            break
    return rows, predicted


def make_plan(
    cluster: BenchmarkCluster, model: str, slo_s: float, rate: float, rows: int, cv: float = 1.0
) -> dict[str, Any]:
    """What `shoal plan` says."""
    load = ("--rps", str(rate), "--rows-per-request", str(rows), "--cv", str(cv))
    plan: dict[str, Any] = json.loads(cluster.run("plan", model, "--slo-p99", str(slo_s), *load, "--json"))["plan"]
    return plan


def load(cluster: BenchmarkCluster, request: bytes, arrivals_s: Any, model: str | None = None) -> tuple[Outcomes, int]:
    """Send requests on schedule; returns what became of them, and the most replicas that ran meanwhile."""
    replicas, ended = [0], threading.Event()

    def watch() -> None:
        # Not by `shoal status`: a new process each time would take half a core from what is measured.
        with httpx.Client(base_url=cluster.url, headers={"authorization": cluster.key}) as http:
            while model and not ended.wait(STATUS_INTERVAL_S):
                deployments = http.get("/api/v1/deployments").json()["deployments"]
                replicas.append(next(each["replicas"] for each in deployments if each["name"] == model))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with OpenLoop(cluster.url, arrivals_s, request) as client:
            client.wait()
    finally:
        ended.set()
        watcher.join()
    return client.outcomes, max(replicas)


def report(results: list[dict[str, Any]]) -> None:
    """Print the table."""
    columns = (
        "model",
        "arrivals",
        "goal",
        "rows/pass",
        "rows",
        "predicted req/s",
        "sent req/s",
        "p50",
        "p99",
        "planned p99",
    )
    table = Table(*columns, "in goal", "failed", "replicas (planned)", "send lag p99", "met", box=None)
    for each in results:
        table.add_row(
            each["model"],
            each["arrivals"],
            f"{1000 * each['slo_s']:g} ms",
            str(each["pass_rows"]),
            str(each["rows"]),
            f"{each['predicted_rps']:,.0f}",
            f"{each['rate']:,.0f}",
            *(f"{1000 * each[name]:.3g} ms" for name in ("p50_s", "p99_s", "planned_p99_s")),
            f"{each['within']:.2%}",
            str(each["failed"]),
            f"{each['replicas']} ({each['planned_replicas']})",
            f"{1000 * each['send_lag_p99_s']:.3g} ms",
            "yes" if each["is_met"] else "no",
        )
    Console(width=200).print(table)


def plot(runs: list[Run], file: Path) -> None:
    """Draw the share of requests above each latency, and the goals; the planned p99 is a cross."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(run.result["model"] for run in runs))
    figure = Figure(figsize=(5 * len(models), 4), layout="constrained")
    all_axes = figure.subplots(1, len(models), squeeze=False)[0]
    for axes, model in zip(all_axes, models, strict=True):
        for run in (run for run in runs if run.result["model"] == model):
            latency_s = np.sort(run.outcomes.latency_s[run.outcomes.is_ok])
            share = 1 - np.arange(1, len(latency_s) + 1) / (len(latency_s) + 1)
            (line,) = axes.plot(1000 * latency_s, share, label=f"{run.result['arrivals']}, {run.result['rate']:.0f}/s")
            axes.plot(1000 * run.result["planned_p99_s"], 0.01, "x", color=line.get_color())
        axes.axvline(1000 * run.result["slo_s"], color="gray", label="goal")
        axes.axhline(0.01, color="gray", linewidth=0.5)
        axes.set(title=model, xlabel="latency, ms", ylabel="share of slower requests", xscale="log", yscale="log")
        axes.legend(fontsize="small")
    figure.savefig(file, format="png", dpi=120)
    Console().print(f"plot: {file}", markup=False, highlight=False)


if __name__ == "__main__":
    main()

"""`shoal demo`: the three walks once, on real data, with nothing left out.

Trains digits-cnn with two workers, publishes it, deploys that version, sends held-out pictures over HTTP, and says how
to go on. The cluster stays up; Ctrl-C at any moment takes it down.
"""

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster import training_run
from cluster.cli import predict
from cluster.local import lifecycle
from cluster.local.lifecycle import Cluster
from cluster.rollout import reconcile
from cluster.settings import Settings

RECIPE = "digits-cnn"
SHOWN = 10
THREADS = 8


def run(settings: Settings, console: Console) -> None:
    """Walk; on Ctrl-C (or SIGTERM, SIGHUP) take everything down again."""
    lifecycle.interrupt_on_termination()
    served_before = lifecycle.find_cluster(settings) is not None
    try:
        _walk(settings, console)
    except BaseException as error:
        # A failure of the demo is no reason to stop what ran before it; Ctrl-C is.
        if isinstance(error, KeyboardInterrupt) or not served_before:
            with console.status("stopping the cluster"):
                lifecycle.run_uninterruptible(lambda: lifecycle.stop_cluster(settings))
        raise


def _walk(settings: Settings, console: Console) -> None:
    from deployments.specs.model import Scale
    from training.run.options import RunOptions

    start = time.monotonic()
    console.rule(f"1/3  train {RECIPE} with Ray Train", align="left")
    with console.status("starting a Ray cluster on this machine"), lifecycle.exclusive_lock(settings):
        cluster = lifecycle.start_cluster(settings)
    outcome = training_run.run_locally(settings, RECIPE, [], RunOptions(), console)
    accuracy = outcome.metrics["test_accuracy"]
    console.print(f"published {outcome.version}, held-out accuracy {accuracy:.4f}", highlight=False)

    console.rule(f"2/3  deploy {outcome.version} with Ray Serve", align="left")
    with lifecycle.exclusive_lock(settings), console.status("starting Serve") as status:
        reconcile.reconcile(settings, cluster, lambda now: status.update(f"starting Serve: {now}"))
        reconcile.deploy(
            settings, cluster, str(outcome.version), Scale(), lambda now: status.update(f"deploying: {now}")
        )
    url = f"{cluster.url}/v2/models/{RECIPE}"
    console.print(f"answers at {url}", highlight=False)

    console.rule("3/3  ask it, with pictures it has never seen", align="left")
    _ask(settings, cluster, console)
    _print_next_steps(settings, cluster, console)
    console.print(f"the whole walk took {time.monotonic() - start:.0f} s", highlight=False)


def _ask(settings: Settings, cluster: Cluster, console: Console) -> None:
    """Send every held-out picture as a PNG of its own; show some answers, then all in figures."""
    from torch import Tensor

    from training.data.preprocessing import prepare_dataset
    from training.recipe.load import load_recipe
    from training.schema import ImageInput

    recipe = load_recipe(RECIPE)
    dataset, parts, fitted = prepare_dataset(recipe)
    test, words = dataset.select(parts["test"]), fitted.input_schema
    assert isinstance(words, ImageInput)
    assert isinstance(test.targets, Tensor)
    pictures = [words.encode_png(row) for row in test.inputs]
    truths = [dataset.labels[target] for target in test.targets.tolist()]
    local = threading.local()

    def ask(picture: bytes) -> tuple[str, float, float]:
        if not hasattr(local, "http"):
            local.http = predict.open_client(settings, cluster)
        start = time.perf_counter()
        answer: httpx.Response = local.http.post(
            f"/v2/models/{RECIPE}/predict", content=picture, headers={"Content-Type": "image/png"}
        )
        seconds = time.perf_counter() - start
        best = answer.raise_for_status().json()["predictions"][0]
        return best["label"], best["score"], seconds

    some = range(0, len(pictures), len(pictures) // SHOWN)
    alone = [ask(pictures[index]) for index in some]
    table = Table("truth", "prediction", "score", box=None, pad_edge=False)
    for index, (label, score, _) in zip(some, alone, strict=True):
        table.add_row(truths[index], f"[{'green' if label == truths[index] else 'red'}]{label}", f"{score:.3f}")
    console.print(table)

    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(track(pool.map(ask, pictures), "asking", total=len(pictures), console=console, transient=True))
    wall = time.perf_counter() - start
    right = sum(label == truth for (label, _, _), truth in zip(answers, truths, strict=True))
    console.print(
        f"accuracy over HTTP: {right / len(truths):.4f} ({right} of {len(truths)})\n"
        f"latency, one caller: median {statistics.median(seconds for _, _, seconds in alone) * 1000:.1f} ms\n"
        f"throughput, {THREADS} Python callers on this machine: {len(answers) / wall:.0f} requests per second",
        highlight=False,
    )


def _print_next_steps(settings: Settings, cluster: Cluster, console: Console) -> None:
    key = _shorten_path(settings.home / "secrets" / "admin_key")
    console.print(
        f"""
url    {cluster.url}/v2/models/{RECIPE}    docs {cluster.url}/docs (any user, the key as password)
key    {key}
call   curl -s -H "Authorization: Bearer $(cat {key})" {cluster.url}/v2/models/{RECIPE}/example | \
curl -s -H "Authorization: Bearer $(cat {key})" -H "Content-Type: application/json" -d @- \
{cluster.url}/v2/models/{RECIPE}/predict
stop   make down
""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _shorten_path(path: Path) -> str:
    """A path as a shell takes it, with ~ for the home folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)

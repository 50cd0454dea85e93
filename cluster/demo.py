"""`shoal demo`: train, deploy and predict once, on real data, with nothing left out.

Trains digits-cnn with two workers, publishes it, deploys that version, sends held-out images over HTTP, and prints how
to go on. The cluster stays up; Ctrl-C at any moment stops it.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.local.running_cluster import Cluster, exclusive_lock, find_cluster
from cluster.local.signals import interrupt_on_termination, run_uninterruptible
from cluster.local.start import start_cluster, stop_cluster
from cluster.settings import Settings
from cluster.shoal import Shoal

RECIPE = "digits-cnn"
NUM_SHOWN, NUM_THREADS = 10, 8


def run(settings: Settings, console: Console) -> None:
    """Take the whole walk; on Ctrl-C (or SIGTERM, SIGHUP) stop everything again."""
    interrupt_on_termination()
    ran_before = find_cluster(settings) is not None
    try:
        _walk(Shoal(settings), console)
    except BaseException as error:
        # A failure of the demo is no reason to stop a cluster that ran before it; Ctrl-C is.
        if isinstance(error, KeyboardInterrupt) or not ran_before:
            with console.status("stopping the cluster"):
                run_uninterruptible(lambda: stop_cluster(settings))
        raise


def _walk(shoal: Shoal, console: Console) -> None:
    start_s = time.monotonic()
    console.rule(f"1/3  train {RECIPE} with Ray Train", align="left")
    with (
        exclusive_lock(shoal.settings, lambda status: console.print(status, highlight=False)),
        console.status("starting a Ray cluster on this machine"),
    ):
        cluster = start_cluster(shoal.settings)
    result = shoal.train(RECIPE, console=console)
    accuracy = result.metrics["test_accuracy"]
    console.print(f"published {result.version}, held-out accuracy {accuracy:.4f}", highlight=False)

    console.rule(f"2/3  deploy {result.version} with Ray Serve", align="left")
    with console.status("starting Ray Serve") as spinner:
        shoal.up(on_status=lambda status: spinner.update(f"starting Ray Serve: {status}"))
        shoal.deploy(result.version, on_status=lambda status: spinner.update(f"deploying: {status}"))
    console.print(f"serving at {cluster.url}/v2/models/{RECIPE}", highlight=False)

    console.rule("3/3  predict images that it has never seen", align="left")
    _predict(shoal, console)
    _print_next_steps(shoal.settings, cluster, console)
    console.print(f"the whole walk took {time.monotonic() - start_s:.0f} s", highlight=False)


def _predict(shoal: Shoal, console: Console) -> None:
    """Send every held-out image as a PNG of its own; show some predictions, then accuracy and speed over all."""
    images, truths = _load_test_images()
    with shoal.client() as client:

        def predict(image: bytes) -> tuple[str, float, float]:
            start_s = time.perf_counter()
            (prediction,) = client.predict(RECIPE, image)
            return prediction["label"], prediction["score"], time.perf_counter() - start_s

        shown = range(0, len(images), len(images) // NUM_SHOWN)
        single = [predict(images[index]) for index in shown]
        table = Table("truth", "prediction", "score", box=None, pad_edge=False)
        for index, (label, score, _) in zip(shown, single, strict=True):
            color = "green" if label == truths[index] else "red"
            table.add_row(truths[index], f"[{color}]{label}", f"{score:.3f}")
        console.print(table)

        start_s = time.perf_counter()
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            results = pool.map(predict, images)
            predictions = list(track(results, "predicting", total=len(images), console=console, transient=True))
        wall_s = time.perf_counter() - start_s
    correct = sum(label == truth for (label, _, _), truth in zip(predictions, truths, strict=True))
    console.print(
        f"accuracy over HTTP: {correct / len(truths):.4f} ({correct} of {len(truths)})\n"
        f"latency, one caller: median {statistics.median(seconds for _, _, seconds in single) * 1000:.1f} ms\n"
        f"throughput, {NUM_THREADS} Python threads: {len(predictions) / wall_s:.0f} requests per second",
        highlight=False,
    )


def _load_test_images() -> tuple[list[bytes], list[str]]:
    """The held-out images of the recipe as PNG files, and their labels."""
    from torch import Tensor

    from training.data.preprocessing import prepare_dataset
    from training.recipe.load import load_recipe
    from training.schema import ImageInput

    dataset, splits, preprocessing = prepare_dataset(load_recipe(RECIPE))
    test, schema = dataset.select(splits["test"]), preprocessing.input_schema
    assert isinstance(schema, ImageInput)
    assert isinstance(test.targets, Tensor)
    return [schema.encode_png(row) for row in test.inputs], [dataset.labels[i] for i in test.targets.tolist()]


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

"""The `shoal` command: each verb parses, calls one function, prints.

Heavy imports stay inside the verbs that need them, so that `shoal --help` is instant.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from cluster.cli import models, runs
from cluster.cli.terminal import console, context, format_metrics, make_table, show_status
from cluster.local import lifecycle
from cluster.settings import Settings, list_fields, load_settings
from training.errors import ServiceError, UserError, summarize_validation_error
from training.settings import mask_passwords

app = typer.Typer(
    name="shoal",
    help="Models as a service on Ray: train a PyTorch model, publish it, serve it behind one HTTP call.",
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(models.app, name="models", invoke_without_command=True)
app.add_typer(runs.app, name="runs", invoke_without_command=True)

# Typer carries its own copy of click and exports no name for what it raises when a command line is wrong.
UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

Gpus = Annotated[bool, typer.Option("--gpus", help="Give every worker a GPU.")]


@app.callback()
def options(
    settings: Annotated[Path | None, typer.Option("--settings", help="A YAML file of settings.")] = None,
) -> None:
    """Take the options that come before the verb."""
    context.settings = load_settings(settings)
    # Before any verb imports Ray, which reads its switches as it is imported.
    lifecycle.set_ray_environment(context.settings)


@app.command()
def init() -> None:
    """Make SHOAL_HOME and its secrets, and start nothing."""
    from cluster.local import secrets

    home = context.settings.home
    for name in (secrets.ADMIN_KEY, secrets.RAY_TOKEN):
        secrets.ensure_secret(home, name)
    console.print(f"ready: {home}", highlight=False)


@app.command()
def up(
    autoscaling_config: Annotated[
        Path | None, typer.Option(help="On a cloud head: the file that Ray's launcher wrote.")
    ] = None,
) -> None:
    """Start a cluster on this machine, and in it whatever was deployed."""
    settings = context.settings
    arguments = (f"--autoscaling-config={autoscaling_config}",) if autoscaling_config else ()
    lifecycle.interrupt_on_termination()
    with lifecycle.exclusive_lock(settings):
        found = lifecycle.find_cluster(settings)
        try:
            with show_status("starting Ray"):
                cluster = lifecycle.start_cluster(settings, ray_arguments=arguments)
            _reconcile(settings, cluster)
        except BaseException:
            # Half a cluster is of no use to anybody; a whole one that ran before is.
            if found is None:
                lifecycle.run_uninterruptible(lambda: lifecycle.stop_cluster(settings))
            raise
    console.print(
        f"up: {cluster.url}\ngrpc: {cluster.grpc}\nkey: {settings.home / 'secrets' / 'admin_key'}\nstop: shoal down",
        highlight=False,
    )


@app.command()
def join(address: Annotated[str, typer.Argument(help="HOST:PORT of the head's Ray.")]) -> None:
    """Start a worker node on this machine for a head elsewhere."""
    with show_status(f"joining {address}"):
        lifecycle.join_cluster(context.settings, address)
    console.print(f"joined {address}", highlight=False)


@app.command()
def down() -> None:
    """Stop the cluster of this SHOAL_HOME: every process, nothing else."""
    with show_status("stopping"):
        stopped = lifecycle.stop_cluster(context.settings)
    console.print(f"down: {stopped} processes ended" if stopped else "down: nothing was running", highlight=False)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A ready recipe, or the path of a .py file that binds `recipe`.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N|MIN-MAX", help="Data-parallel workers; with bounds, as many as there are.")
    ] = None,
    gpus: Gpus = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time of a step goes.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that was interrupted, from its last checkpoint.")
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Run as a Ray job on the cluster.")] = False,
) -> None:
    """Train a recipe on the cluster and publish the result as the model's next version."""
    from training.run.options import RunOptions, WorkerCount

    if bool(recipe) == bool(resume):
        raise typer.BadParameter("name a recipe, or a run to --resume, and not both")
    if resume and set_:
        raise typer.BadParameter("a resumed run keeps its recipe; leave --set out")
    bounds = WorkerCount(bounds=workers) if workers else None
    settings, options = context.settings, RunOptions(workers=bounds, gpus=gpus, profile=profile)
    if submit:
        from cluster import jobs

        jobs.submit(settings, lifecycle.require_cluster(settings), recipe, set_ or [], options, resume, console)
        return
    from cluster import training_run

    outcome = training_run.run_locally(settings, recipe, set_ or [], options, console, resume=resume)
    console.print(f"published {outcome.version}: {format_metrics(outcome.metrics)}", highlight=False)
    if profile:
        from training.run.profile_report import render_profile

        console.print(render_profile(outcome.final_report))


@app.command()
def reproduce(reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]")]) -> None:
    """Train a published version's recipe again, publish nothing over it, and compare the two."""
    from cluster import training_run

    reproduced = training_run.reproduce(context.settings, reference, console)
    shown = make_table("metric", str(reproduced.before), str(reproduced.after), "difference")
    for name, old, new in reproduced.scores:
        shown.add_row(name, f"{old:.6f}", f"{new:.6f}", f"{new - old:+.6f}")
    console.print(shown)
    console.print(reproduced.verdict, highlight=False)


@app.command()
def recipes() -> None:
    """List the recipes that come with Shoal."""
    from training.recipe.load import list_builtin_recipes, load_recipe

    shown = make_table("recipe", "task", "what")
    for name in list_builtin_recipes():
        recipe = load_recipe(name)
        shown.add_row(name, recipe.task, recipe.summary)
    console.print(shown)


@app.command()
def deploy(
    reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]")],
    min_replicas: Annotated[int, typer.Option(help="Replicas that always run.")] = 1,
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at the most; as many as the least.")] = None,
    target: Annotated[float, typer.Option(help="Requests inside one replica that scaling aims at.")] = 16,
    cpus: Annotated[float, typer.Option(help="CPUs of one replica.")] = 1,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of one replica, or a part of one; 1 where the cluster has any.")
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="What matrices are multiplied in.")] = "fp32",
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the net when it is loaded.")] = False,
) -> None:
    """Serve a published version at /v2/models/NAME."""
    from cluster.rollout import reconcile
    from deployments.specs.model import Scale

    settings = context.settings
    scale = Scale(
        min_replicas=min_replicas,
        max_replicas=min_replicas if max_replicas is None else max_replicas,
        target_ongoing_requests=target,
        cpus=cpus,
        gpus=gpus or 0,
    )
    cluster = lifecycle.require_cluster(settings)
    if gpus is None and reconcile.count_gpus(settings, cluster):
        scale = scale.model_copy(update={"gpus": 1})
    lifecycle.interrupt_on_termination()
    with lifecycle.exclusive_lock(settings), show_status(f"deploying {reference}") as on_status:
        made = reconcile.deploy(settings, cluster, reference, scale, on_status, dtype=dtype, compile=compile_)
    console.print(
        f"deployed {made.name}:{made.endpoint.version} at {cluster.url}/v2/models/{made.name}",
        highlight=False,
    )


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="A .yaml file, or a .py file that binds `pipeline`.")],
) -> None:
    """Serve a pipeline of deployed models at /v2/models/NAME."""
    from cluster.rollout import reconcile
    from deployments.specs import pipeline_files

    settings, pipeline = context.settings, pipeline_files.load_pipeline(file)
    cluster = lifecycle.require_cluster(settings)
    lifecycle.interrupt_on_termination()
    with lifecycle.exclusive_lock(settings), show_status(f"applying {pipeline.name}") as on_status:
        made = reconcile.deploy_pipeline(settings, cluster, pipeline, on_status)
    console.print(
        f"applied {made.name}:{made.endpoint.version} at {cluster.url}/v2/models/{made.name}", highlight=False
    )


@app.command()
def undeploy(name: str) -> None:
    """Stop serving a model or pipeline."""
    from cluster.rollout import reconcile

    settings = context.settings
    cluster = lifecycle.require_cluster(settings)
    with lifecycle.exclusive_lock(settings), show_status(f"undeploying {name}") as on_status:
        reconcile.undeploy(settings, cluster, name, on_status)
    console.print(f"undeployed {name}", highlight=False)


@app.command()
def status() -> None:
    """Say what runs."""
    from cluster.rollout import reconcile
    from deployments.state.store import DeploymentStore

    settings = context.settings
    cluster = lifecycle.find_cluster(settings)
    if cluster is None:
        console.print("no cluster runs; start one with `shoal up`")
        return
    found = reconcile.fetch_statuses(settings, cluster)
    shown = make_table("model", "version", "status", "replicas", "bounds", "form")
    for deployment in DeploymentStore(settings.platform).list_records():
        application = found.get(deployment.name, {})
        replicas = application.get("deployments", {}).get("replica", {}).get("replicas", [])
        running = sum(replica["state"] == "RUNNING" for replica in replicas)
        bounds = f"{deployment.scale.min_replicas}-{deployment.scale.max_replicas}"
        state = application.get("status", "NOT_STARTED")
        shown.add_row(
            deployment.name, str(deployment.endpoint.version), state, str(running), bounds, deployment.endpoint.variant
        )
    console.print(f"cluster: {cluster.url}  grpc: {cluster.grpc}  dashboard: {cluster.dashboard}", highlight=False)
    console.print(shown)


@app.command()
def predict(
    name: str,
    what: Annotated[str, typer.Argument(metavar="FILE|JSON", help="A picture, a JSON file, or JSON.")],
) -> None:
    """Ask a deployed model; with "stream": true in the JSON, print text as it is written."""
    from cluster.cli import predict

    settings = context.settings
    cluster = lifecycle.require_cluster(settings)
    pieces = predict.stream(settings, cluster, name, what)
    if pieces is not None:
        predict.print_stream(pieces)
        return
    answer = predict.predict(settings, cluster, name, what)
    console.print_json(json.dumps(answer))


@app.command()
def settings() -> None:
    """List every setting: its type, default, value, and where that came from."""
    found = context.settings
    shown = make_table("setting", "type", "default", "value", "from", "what")
    for key, field in list_fields().items():
        kind = getattr(field.annotation, "__name__", str(field.annotation))
        value = mask_passwords(found.flatten()[key])
        shown.add_row(key, kind, mask_passwords(field.default), value, found.origin(key), field.description or "")
    console.print(shown)


@app.command()
def demo() -> None:
    """Walk the whole way once: train digits, publish, deploy, ask."""
    from cluster import demo as demo_

    demo_.run(context.settings, console)


def main() -> None:
    """Entry point: no traceback ever reaches a person."""
    sys.exit(run(sys.argv[1:]))


INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def run(arguments: list[str]) -> int:
    """Run one command line; returns 0, 1 for a failure, 2 for a mistake, 130 where it was interrupted."""
    errors = Console(stderr=True)

    def say(message: str) -> None:
        errors.print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)

    try:
        result: Any = typer.main.get_command(app)(arguments or ["--help"], prog_name="shoal", standalone_mode=False)
    except UsageError as error:
        say(error.format_message())
        return 2
    except UserError as error:
        say(str(error))
        return 2
    except ValidationError as error:
        say(summarize_validation_error(error))
        return 2
    except ServiceError as error:
        say(str(error))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except Exception as error:
        say(
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}{_keep_traceback(error)}"
        )
        return 1
    if result == INTERRUPTED:
        # Typer makes this of Ctrl-C by itself, and says nothing.
        say("interrupted")
    return result if isinstance(result, int) else 0


def _keep_traceback(error: Exception) -> str:
    """Keep an unforeseen error's traceback where it can be sent from; say where."""
    try:
        folder = context.settings.home / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "errors.log").open("a") as file:
            file.write("".join(traceback.format_exception(error)))
    except (OSError, AttributeError):
        return ""
    return f" (a fault of Shoal's; its traceback is in {folder / 'errors.log'})"


def _reconcile(settings: Settings, cluster: Any) -> None:
    from cluster.rollout import reconcile

    with show_status("starting Serve") as on_status:
        reconcile.reconcile(settings, cluster, on_status)

"""Commands of training: train, reproduce."""

from typing import Annotated

import typer

from cluster.cli.completion import complete_recipes
from cluster.cli.terminal import (
    Json,
    Reference,
    console,
    context,
    format_metrics,
    get_progress_console,
    make_table,
    print_json,
    print_line,
    print_note,
    print_table,
)


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (train, reproduce):
        app.command()(command)


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A ready recipe, or the path of a .py file that binds `recipe`.", autocompletion=complete_recipes
        ),
    ] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key; `shoal recipes show NAME` lists them."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|MIN-MAX", help="Data-parallel workers; with bounds, as many as there is room for."),
    ] = None,
    gpus: Annotated[bool, typer.Option("--gpus", help="Give every worker a GPU.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time of a step goes.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Resume an interrupted run from its last checkpoint.")
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Run as a Ray job on the cluster.")] = False,
) -> None:
    """Train a recipe and publish the model's next version."""
    from cluster.cli.scripts import require_binding
    from training.run.options import RunOptions, WorkerCount

    if bool(recipe) == bool(resume):
        raise typer.BadParameter("name a recipe, or a run to --resume, and not both")
    if resume and overrides:
        raise typer.BadParameter("a resumed run keeps its recipe; leave --set out")
    require_binding(recipe, "recipe")
    bounds = WorkerCount(bounds=workers) if workers else None
    options = RunOptions(workers=bounds, gpus=gpus, profile=profile)
    if submit:
        from cluster.jobs import submit as submit_job
        from cluster.local.running_cluster import require_cluster

        cluster = require_cluster(context.settings)
        submit_job(context.settings, cluster, recipe, overrides or [], options, resume, console)
        return
    from cluster.shoal import Shoal

    result = Shoal(context.settings).train(
        recipe, overrides, options=options, resume=resume, console=get_progress_console()
    )
    print_line(f"published {result.version}: {format_metrics(result.metrics)}")
    if profile:
        from training.run.profile_report import render_profile

        console.print(render_profile(result.final_report))
    print_note(f"next: shoal deploy {result.version}")


def reproduce(reference: Reference, as_json: Json = False) -> None:
    """Train a version's recipe again; compare, publish nothing."""
    from cluster.train import reproduce as reproduce_version

    result = reproduce_version(context.settings, reference, get_progress_console())
    if as_json:
        scores = {name: {"before": old, "after": new} for name, old, new in result.scores}
        print_json({"version": str(result.version), "run": result.run, "scores": scores, "verdict": result.verdict})
        return
    table = make_table("metric", str(result.version), result.run, "difference")
    for name, old, new in result.scores:
        table.add_row(name, f"{old:.6f}", f"{new:.6f}", f"{new - old:+.6f}")
    print_table(table)
    print_line(result.verdict)
    print_note(f"nothing was published; run {result.run} is in `shoal runs`")

"""`shoal models`: the registry's commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.completion import complete_models
from cluster.cli.terminal import (
    Json,
    Reference,
    console,
    make_table,
    open_registry,
    print_json,
    print_line,
    print_note,
    print_table,
    print_warning,
)

app = typer.Typer(
    help="The registry of models, versions and aliases.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def default(context_: typer.Context, as_json: Json = False) -> None:
    """List models where no command follows."""
    if not context_.invoked_subcommand:
        list_(as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List all models."""
    registry = open_registry()
    rows = [_summarize(registry, name) for name in registry.list_models()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        print_note("no models yet; `shoal train iris` publishes one, `shoal models import FOLDER` another's")
        return
    table = make_table("model", "newest", "aliases", "task", "score")
    for row in rows:
        aliases = ", ".join(f"{alias}={version}" for alias, version in row["aliases"].items())
        metric = row["metric"].removeprefix("test_")
        score = "" if row["score"] is None else f"{metric} {row['score']:.4f}"
        table.add_row(row["model"], str(row["newest"]), aliases, row["task"], score)
    print_table(table)
    for row in rows:
        if row["problem"]:
            print_warning(f"{row['model']} {row['problem']}")


@app.command()
def show(reference: Reference, as_json: Json = False) -> None:
    """Show a model's versions, and the card of one of them."""
    registry = open_registry()
    version = registry.resolve(reference)
    versions = registry.list_versions(version.name)
    manifest = registry.load_manifest(version)
    if as_json:
        listed = [
            {"version": v.version, "aliases": list(v.aliases), "digest": v.digest, "run_id": v.run_id} for v in versions
        ]
        print_json({"versions": listed, "version": version.version, "manifest": manifest.model_dump(mode="json")})
        return
    from rich.markdown import Markdown

    from training.bundle.manifest import CARD_FILE

    table = make_table("version", "aliases", "digest", "run")
    for each in versions:
        table.add_row(str(each.version), ", ".join(each.aliases), each.digest[:12], each.run_id)
    print_table(table)
    folder = registry.fetch_bundle(version)
    plots = ", ".join(sorted(file.name for file in folder.glob("*.png")))
    print_line(f"\ncard of {version}; its folder is {folder}{f', with the plots {plots}' if plots else ''}\n")
    console.print(Markdown((folder / CARD_FILE).read_text()), soft_wrap=False)


@app.command()
def promote(
    name: Annotated[str, typer.Argument(autocompletion=complete_models)],
    version: int,
    alias: Annotated[str, typer.Option("--as", metavar="ALIAS", help="The alias.")],
) -> None:
    """Point an alias at a version."""
    print_line(f"{open_registry().promote(name, version, alias)} is now {alias}")


@app.command("import")
def import_(folder: Path) -> None:
    """Publish a bundle that was made elsewhere.

    Signatures that it has are kept; `shoal models sign` adds this cluster's.
    """
    from training.registry.model_registry import AlreadyPublished

    try:
        version = open_registry().publish(folder)
        print_line(f"published {version}")
    except AlreadyPublished as error:
        version = error.version
        print_line(f"{version} is this bundle already; nothing was published")
    print_note(f"next: shoal deploy {version}")


@app.command()
def export(reference: Reference, folder: Path) -> None:
    """Write a version's bundle to a new folder."""
    print_line(f"wrote {open_registry().export_bundle(reference, folder)}")


@app.command()
def delete(
    reference: Annotated[
        str, typer.Argument(metavar="NAME:VERSION", help="The version.", autocompletion=complete_models)
    ],
) -> None:
    """Delete a version that is neither deployed nor has an alias."""
    from cluster.cli.terminal import context, show_status
    from cluster.local.running_cluster import exclusive_lock
    from cluster.rollout.deploy import reject_if_deployed

    registry = open_registry()
    version = registry.resolve_version(reference)
    with show_status(f"deleting {version}") as on_status, exclusive_lock(context.settings, on_status):
        reject_if_deployed(context.settings, version)
        registry.delete_version(version.name, version.version)
    print_line(f"deleted {version}")


def _summarize(registry: Any, name: str) -> dict[str, Any]:
    from training.errors import ShoalError

    versions = registry.list_versions(name)
    summary = {
        "model": name,
        "newest": versions[0].version,
        "aliases": {alias: version.version for version in versions for alias in version.aliases},
        "task": "",
        "metric": "",
        "score": None,
        "problem": "",
    }
    try:
        manifest = registry.read_manifest(versions[0])
    except (ShoalError, OSError) as error:
        # A damaged bundle, or a model that another MLflow client made, hides no other.
        return summary | {"problem": f"cannot be read: {error}"}
    metric = manifest.primary_metric
    return summary | {"task": manifest.task, "metric": metric, "score": manifest.metrics.get(metric)}

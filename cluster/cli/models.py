"""`shoal models`: the registry's verbs; each parses, calls one function, prints."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.terminal import console, make_table, open_registry

app = typer.Typer(help="The registry: list, show, promote, import, export.", rich_markup_mode=None)


@app.callback()
def models(context_: typer.Context) -> None:
    """List all models where no verb follows."""
    if context_.invoked_subcommand:
        return
    found = open_registry()
    shown = make_table("model", "newest", "aliases", "task", "scores")
    for name in found.names():
        versions = found.versions(name)
        manifest = found.manifest(versions[0])
        aliases = ", ".join(f"{alias}={v.version}" for v in versions for alias in v.aliases)
        shown.add_row(name, str(versions[0].version), aliases, manifest.task, _headline(manifest))
    console.print(shown)


@app.command()
def show(reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]")]) -> None:
    """Show a model's versions and the card of one of them."""
    from rich.markdown import Markdown

    from training.bundle.manifest import CARD_FILE

    found = open_registry()
    version = found.resolve(reference)
    shown = make_table("version", "aliases", "digest", "run")
    for each in found.versions(version.name):
        shown.add_row(str(each.version), ", ".join(each.aliases), each.digest[:12], each.run_id)
    console.print(shown)
    found.manifest(version)
    folder = found.fetch(version)
    console.print(f"\ncard of {version}; its pictures are in {folder}\n", highlight=False)
    console.print(Markdown((folder / CARD_FILE).read_text()))


@app.command()
def promote(
    name: str, version: int, as_: Annotated[str, typer.Option("--as", metavar="ALIAS", help="The alias.")]
) -> None:
    """Point an alias at a version."""
    promoted = open_registry().promote(name, version, as_)
    console.print(f"{promoted} is now {as_}", highlight=False)


@app.command(name="import")
def import_(folder: Path) -> None:
    """Publish a bundle that somebody else made."""
    console.print(f"published {open_registry().publish(folder)}", highlight=False)


@app.command()
def export(reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]")], folder: Path) -> None:
    """Write a version's bundle to a new folder."""
    console.print(f"wrote {open_registry().export(reference, folder)}", highlight=False)


def _headline(manifest: Any) -> str:
    """The score that stands first; all of them are on the card."""
    name = manifest.headline
    return f"{name.removeprefix('test_')} {manifest.metrics[name]:.4f}" if name in manifest.metrics else ""

"""`shoal recipes`: ready recipes listed, and every key of a recipe explained."""

from typing import Annotated, Any

import typer

from cluster.cli.completion import complete_recipes
from cluster.cli.terminal import Json, make_table, print_json, print_line, print_table

app = typer.Typer(
    help="Recipes: list, show.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def default(context_: typer.Context, as_json: Json = False) -> None:
    """List, show; list where no command follows."""
    if not context_.invoked_subcommand:
        list_(as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the ready recipes."""
    from training.recipe.load import list_builtin_recipes, load_recipe

    recipes = [load_recipe(name) for name in list_builtin_recipes()]
    if as_json:
        print_json([{"recipe": r.name, "task": r.task, "summary": r.summary} for r in recipes])
        return
    table = make_table("recipe", "task", "summary", wrapped=("summary",))
    for recipe in recipes:
        table.add_row(recipe.name, recipe.task, recipe.summary)
    print_table(table)


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="A ready recipe, or the path of a .py file.", autocompletion=complete_recipes)
    ],
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes.")] = False,
) -> None:
    """Show every key that `shoal train --set` takes."""
    from training.recipe.fields import list_keys
    from training.recipe.load import load_recipe
    from training.recipe.spec import Recipe

    if schema:
        print_json(Recipe.model_json_schema())
        return
    recipe = load_recipe(name)
    keys = list_keys(recipe)
    if as_json:
        print_json([key.model_dump() for key in keys])
        return
    print_line(f"{recipe.name}: {recipe.summary}\n")
    table = make_table("key", "value", "type", "meaning", wrapped=("value", "type", "meaning"))
    for key in keys:
        table.add_row(key.key, _format(key.value), key.type, key.description)
    print_table(table)


def _format(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)

"""`shoal predict`: a model called with JSON, images, or rows in files."""

import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.completion import complete_models
from cluster.cli.terminal import console, context, print_json, print_line, print_note


def add_commands(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(predict)


def predict(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A deployed model or pipeline.", autocompletion=complete_models)
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|JSON",
            help='{"inputs": [...]}, a .json file of it, or - to read it from standard input; rows in .csv, .parquet '
            "or .jsonl; texts in .txt, one a line; an image, or a folder of images.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write inputs and predictions to a .csv, .parquet or .jsonl file."),
    ] = None,
) -> None:
    """Call a deployed model with JSON, images, or rows in files.

    With "stream": true in the JSON, text is printed as it is generated.
    """
    from cluster.prediction_files import read_source, write_predictions
    from cluster.shoal import Shoal
    from deployments.errors import CallError, ClientError
    from training.errors import ServiceError, UserError

    if out is not None:
        from cluster.prediction_files import check_output

        check_output(out)
    with ExitStack() as stack:
        # Opened by what needs it first: a wrong file is refused whether a cluster runs or not.
        open_client = cache(lambda: stack.enter_context(Shoal(context.settings).client()))
        try:
            batch = read_source(source, lambda: open_client().model(name))
            client = open_client()
            if batch.stream:
                with client.stream(name, batch.inputs, **batch.options) as chunks:
                    _print_stream(chunks)
                return
            if batch.ignored_columns:
                print_note(f"not sent, since {name} does not take them: {', '.join(batch.ignored_columns)}")
            predictions = _predict_in_parts(client, name, batch)
        except ClientError as error:
            raise UserError(error.message) from error
        except CallError as error:
            raise ServiceError(error.message) from error
    if out is None:
        print_json({"model": name, "predictions": predictions})
    else:
        write_predictions(out, batch, predictions)
        print_line(f"wrote {len(predictions)} predictions to {out}")


def _predict_in_parts(client: Any, name: str, batch: Any) -> list[Any]:
    """Call the model with so many inputs at a time that no request is too large, and show how far it is."""
    from rich.progress import track

    from cluster.prediction_files import renumber_row
    from deployments.errors import ClientError
    from training.errors import UserError

    parts = batch.split()
    if len(parts) > 1 and not context.quiet and console.is_terminal:
        parts = track(parts, "predicting", console=console, transient=True)
    predictions: list[Any] = []
    for part in parts:
        try:
            predictions += client.predict(name, part, **batch.options)
        except ClientError as error:
            raise UserError(renumber_row(error.message, len(predictions))) from error
        except (TypeError, ValueError) as error:  # the client's own, for what JSON does not have
            raise UserError(renumber_row(str(error), len(predictions))) from error
    return predictions


def _print_stream(chunks: Any) -> None:
    """Print texts as they grow; a chunk of another row than the last begins a line with its number."""
    row = 0
    for chunk in chunks:
        sys.stdout.write(chunk.text if chunk.row == row else f"\n[{chunk.row}] {chunk.text}")
        sys.stdout.flush()
        row = chunk.row
    sys.stdout.write("\n")

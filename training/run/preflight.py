"""Rehearsal: one small step and an export on the driver, so that a mistake shows at once, not hours later on a cluster.

Train walk: run.py -> [rehearsal.py], then the cluster
"""

import torch

from training import tasks
from training.bundle.exported_program import export_program
from training.bundle.manifest import ModelInfo
from training.bundle.save import describe_tensors
from training.data.files.scan import FileScan
from training.data.preprocessing import EncodedRows, prepare_dataset
from training.errors import ShoalError, UserError
from training.recipe.spec import Recipe
from training.schema import SeriesInput, TextInput, max_sequence_length
from training.worker import build
from training.worker.step import build_augmentation

ROWS = 64


def run_preflight(recipe: Recipe, survey: FileScan | None = None) -> None:
    """Take a recipe once through everything that does not need the cluster.

    Args:
        recipe: what is to be trained.
        survey: of its files, where its data is files.

    Raises:
        Mistake: data, net, loss and task do not fit together.
    """
    try:
        dataset, parts, fitted = prepare_dataset(recipe, survey)
        task = tasks.make_task(recipe, dataset, fitted)
        if len(parts["train"]) < recipe.batch_size and recipe.task != "text-generation":
            raise UserError(
                f"batch_rows={recipe.batch_size} is more than the {len(parts['train'])} training rows; lower it"
            )
        rows = task.encode_rows(dataset.select(parts["train"][:ROWS]))
        net = build.build_net(recipe, task, rows)
        _train_one_step(recipe, task, net, rows)
        _evaluate_and_export(recipe, task, net.eval(), rows.select(slice(0, 2)))
    except ShoalError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UserError(f"{recipe.name} fails at its first step: {type(error).__name__}: {error}") from error


def _train_one_step(recipe: Recipe, task: tasks.Task, net: torch.nn.Module, rows: EncodedRows) -> None:
    few = rows.select(slice(0, min(8, recipe.batch_size)))
    x_B, targets_B = build_augmentation(recipe)(few.inputs, few.targets, torch.Generator().manual_seed(0))
    batch = EncodedRows(x_B, targets_B, few.lengths, few.weights)
    loss = task.loss(net.train()(batch.inputs), batch)
    if loss.ndim:
        raise UserError(f"the loss has shape {tuple(loss.shape)}; return the mean over rows")
    loss.backward()
    build.build_optimizer(recipe, net).step()


def _evaluate_and_export(recipe: Recipe, task: tasks.Task, net: torch.nn.Module, rows: EncodedRows) -> None:
    words = task.preprocessing.input_schema
    about = ModelInfo(name=recipe.name, task=recipe.task, input_schema=words, output_schema=task.output_schema())
    with torch.inference_mode():
        output = net(rows.inputs)
        describe_tensors(
            about,
            rows.inputs,
            output if isinstance(output, tuple) else (output,),
            task.outputs,
            task.preprocessing.tokenizer,
        )
        task.validation_metrics(task.eval_outputs(net, output, rows))
    if not isinstance(words, TextInput | SeriesInput) or rows.inputs.shape[1] > 1:
        export_program(net, rows.inputs, max_sequence_length(words))

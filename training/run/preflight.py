"""Preflight: one small step and an export on the driver, so that an error in a recipe shows before any worker starts.

Train walk: driver.py -> [preflight.py] -> training.worker.build
"""
# Shapes: B rows of a batch.

import torch

from training import tasks
from training.bundle.exported_program import export_program
from training.bundle.manifest import ModelInfo
from training.bundle.save import describe_tensors
from training.data.files.scan import FileScan
from training.data.preprocessing import EncodedRows, prepare_dataset
from training.errors import ShoalError, UserError
from training.recipe.renamed import renamed_hint
from training.recipe.spec import Recipe
from training.schema import InputSchema, SeriesInput, TextInput, max_sequence_length
from training.worker import build

# Rows that the net is built from, and rows of the one step.
SAMPLE_ROWS = 64
STEP_ROWS = 8


def run_preflight(recipe: Recipe, scan: FileScan | None = None) -> InputSchema:
    """Run a recipe through everything that does not need the cluster.

    Args:
        recipe: what to train.
        scan: of its files, where its data is files.

    Returns:
        The input schema that the model will have.

    Raises:
        UserError: data, net, loss and task do not fit together.
    """
    try:
        dataset, splits, fitted = prepare_dataset(recipe, scan)
        task = tasks.make_task(recipe, dataset, fitted)
        train_rows = len(splits["train"])
        if train_rows < recipe.batch_size and recipe.task != "text-generation":
            raise UserError(f"batch_size={recipe.batch_size} is more than the {train_rows} training rows; lower it")
        rows = task.encode_rows(dataset.select(splits["train"][:SAMPLE_ROWS]))
        net = build.build_net(recipe, task, rows)
        _train_one_step(recipe, task, net, rows)
        _evaluate_and_export(recipe, task, net.eval(), rows.select(slice(0, 2)))
        return task.preprocessing.input_schema
    except ShoalError:
        raise
    except Exception as error:  # the user's own code may raise anything
        message = " ".join(str(error).split())
        raise UserError(
            f"{recipe.name} fails at its first step: {type(error).__name__}: {message}{renamed_hint(error)}"
        ) from error


def _train_one_step(recipe: Recipe, task: tasks.Task, net: torch.nn.Module, rows: EncodedRows) -> None:
    sample = rows.select(slice(0, min(STEP_ROWS, recipe.batch_size)))
    generator = torch.Generator().manual_seed(0)
    x_B, targets_B = build.build_augmentation(recipe)(sample.inputs, sample.targets, generator)
    batch = EncodedRows(x_B, targets_B, sample.lengths, sample.weights)
    loss = task.loss(net.train()(batch.inputs), batch)
    if loss.ndim:
        raise UserError(f"the loss has shape {tuple(loss.shape)}; return the mean over rows")
    loss.backward()
    build.build_optimizer(recipe, net).step()


def _evaluate_and_export(recipe: Recipe, task: tasks.Task, net: torch.nn.Module, rows: EncodedRows) -> None:
    schema = task.preprocessing.input_schema
    info = ModelInfo(name=recipe.name, task=recipe.task, input_schema=schema, output_schema=task.output_schema())
    with torch.inference_mode():
        output = net(rows.inputs)
        outputs = output if isinstance(output, tuple) else (output,)
        describe_tensors(info, rows.inputs, outputs, task.output_names, task.preprocessing.tokenizer)
        task.validation_metrics(task.eval_outputs(net, output, rows))
    # A time dimension of 1 cannot be exported as a dynamic one.
    if not isinstance(schema, TextInput | SeriesInput) or rows.inputs.shape[1] > 1:
        export_program(net, rows.inputs, max_sequence_length(schema))

"""Preflight: one small step and an export on the driver, so that an error in a recipe shows before any worker starts.

Train walk: driver.py -> [preflight.py] -> training.worker.build
What is quick to see is looked at by cluster.train, before it starts a cluster.
"""
# Shapes: B rows of a batch.

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training import tasks
from training.bundle.exported_program import export_program
from training.bundle.manifest import ModelInfo
from training.bundle.save import describe_tensors
from training.data.files.scan import FileScan, plan_reader
from training.data.preprocessing import EncodedRows, prepare_dataset
from training.errors import ShoalError, UserError
from training.recipe.load import import_path
from training.recipe.renamed import renamed_hint
from training.recipe.spec import Augmentation, Data, Files, Loss, Net, Recipe
from training.schema import InputSchema, SeriesInput, TextInput, max_sequence_length
from training.source_location import describe_error
from training.worker import build

# Rows that the net is built from, and rows of the one step.
SAMPLE_ROWS = 64
STEP_ROWS = 8
# Parameters that a message names at most.
MAX_NAMED = 5


def check_sources(recipe: Recipe) -> None:
    """Find the code, the files and the columns that a recipe names: so quickly that it is done before a cluster starts.

    Raises:
        UserError: one of them is missing.
    """
    named: list[Net | Loss | Augmentation | Data | None] = [recipe.net, recipe.loss, recipe.augmentation]
    if isinstance(recipe.data, Files):
        plan_reader(recipe, recipe.data)
    else:
        named.append(recipe.data)
    for each in named:
        if each is not None:
            import_path(each.source)


def run_preflight(recipe: Recipe, scan: FileScan | None = None, workers: int = 1) -> InputSchema:
    """Run a recipe through everything that does not need the cluster.

    Args:
        recipe: what to train.
        scan: of its files, where its data is files.
        workers: how many there will be at most, among whom the rows of a step are shared out.

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
        _train_one_step(recipe, task, net, rows, workers)
        _evaluate_and_export(recipe, task, net.eval(), rows.select(slice(0, 2)))
        return task.preprocessing.input_schema
    except ShoalError:
        raise
    except Exception as error:  # the user's own code may raise anything
        message = ", ".join([describe_error(error), *getattr(error, "__notes__", ())])
        raise UserError(f"{recipe.name} fails at its first step: {message}{renamed_hint(error)}") from error


def _train_one_step(recipe: Recipe, task: tasks.Task, net: torch.nn.Module, rows: EncodedRows, workers: int) -> None:
    """Make one step with as few rows as a worker may get."""
    share = max(1, recipe.batch_size // (workers * recipe.gradient_accumulation))
    sample = rows.select(slice(0, min(STEP_ROWS, share)))
    generator = torch.Generator().manual_seed(0)
    x_B, targets_B = build.build_augmentation(recipe)(sample.inputs, sample.targets, generator)
    batch = EncodedRows(x_B, targets_B, sample.lengths, sample.weights)
    with _name_failing_layer(net, f"{len(sample)} rows, of the {share} that a worker has in a step"):
        output = net.train()(batch.inputs)
    loss = task.loss(output, batch)
    if loss.ndim:
        raise UserError(f"the loss has shape {tuple(loss.shape)}; return the mean over rows")
    loss.backward()
    if workers > 1:
        _refuse_unreached_parameters(net)
    build.build_optimizer(recipe, net).step()


@contextmanager
def _name_failing_layer(net: torch.nn.Module, rows: str) -> Iterator[None]:
    """Add to an error the layer in which it arose."""
    entered: list[str] = []
    hooks = []
    for name, module in net.named_modules():
        label = f"{name or 'the net'} ({type(module).__name__})"
        hooks.append(module.register_forward_pre_hook(lambda *_, label=label: entered.append(label)))
        hooks.append(module.register_forward_hook(lambda *_: entered.pop() and None))
    try:
        yield
    except Exception as error:
        if entered:
            error.add_note(f"in {entered[-1]} with {rows}")
        raise
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_unreached_parameters(net: torch.nn.Module) -> None:
    """Raise UserError where the loss does not depend on a parameter: workers would wait for its gradient."""
    unreached = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    if unreached:
        names = ", ".join(unreached[:MAX_NAMED]) + (", ..." if len(unreached) > MAX_NAMED else "")
        raise UserError(
            f"the loss does not reach {names}: several workers would wait for gradients that never come; use them in "
            "forward, remove them, or set requires_grad_(False); or train with one worker"
        )


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

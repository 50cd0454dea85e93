"""Rehearsal: one small step and an export on the driver, so that a mistake shows at once, not hours later on a cluster.

Train walk: run.py -> [rehearsal.py], then the cluster
"""

import torch

from training import assemble, bundle, prepare, program, tasks
from training.errors import Mistake, ShoalError
from training.files.survey import Survey
from training.prepare import Rows
from training.recipe import Recipe
from training.words import SeriesWords, TextWords
from training.worker import augmentation

ROWS = 64


def rehearse(recipe: Recipe, survey: Survey | None = None) -> None:
    """Take a recipe once through everything that does not need the cluster.

    Args:
        recipe: what is to be trained.
        survey: of its files, where its data is files.

    Raises:
        Mistake: data, net, loss and task do not fit together.
    """
    try:
        dataset, parts, fitted = prepare.load(recipe, survey)
        task = tasks.task_of(recipe, dataset, fitted)
        if len(parts["train"]) < recipe.batch_rows and recipe.task != "text-generation":
            raise Mistake(
                f"batch_rows={recipe.batch_rows} is more than the {len(parts['train'])} training rows; lower it"
            )
        rows = task.rows(dataset.select(parts["train"][:ROWS]))
        net = assemble.build_net(recipe, task, rows)
        _step(recipe, task, net, rows)
        _judge(recipe, task, net.eval(), rows.select(slice(0, 2)))
    except ShoalError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise Mistake(f"{recipe.name} fails at its first step: {type(error).__name__}: {error}") from error


def _step(recipe: Recipe, task: tasks.Task, net: torch.nn.Module, rows: Rows) -> None:
    few = rows.select(slice(0, min(8, recipe.batch_rows)))
    x_B, targets_B = augmentation(recipe)(few.inputs, few.targets, torch.Generator().manual_seed(0))
    batch = Rows(x_B, targets_B, few.lengths, few.weights)
    loss = task.loss(net.train()(batch.inputs), batch)
    if loss.ndim:
        raise Mistake(f"the loss has shape {tuple(loss.shape)}; return the mean over rows")
    loss.backward()
    assemble.build_optimiser(recipe, net).step()


def _judge(recipe: Recipe, task: tasks.Task, net: torch.nn.Module, rows: Rows) -> None:
    words = task.fitted.words
    about = bundle.About(name=recipe.name, task=recipe.task, words=words, answer=task.answer())
    with torch.inference_mode():
        output = net(rows.inputs)
        bundle.specs(
            about, rows.inputs, output if isinstance(output, tuple) else (output,), task.outputs, task.fitted.tokeniser
        )
        task.scores(task.facts(net, output, rows))
    if not isinstance(words, TextWords | SeriesWords) or rows.inputs.shape[1] > 1:
        program.export(net, rows.inputs, bundle.most_steps(words))

"""The loop: what one training worker does, start to finish.

Train walk: run.py -> data.py -> [loop.py] -> bundle.py -> registry.py
One loop for every recipe. Knows the recipe, Ray Train and torch; nothing of the registry or the command line.
"""
# Shapes: B rows of this worker's batch, C classes.

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from training import bundle, checkpoint, data
from training.data import Dataset, Rows, Splits
from training.errors import Failure, Mistake
from training.nets.standardise import Standardise
from training.recipe import Recipe, load_path
from training.words import Classes

# Rows of one forward pass where no gradient is needed.
EVALUATION_ROWS = 512
NICENESS = 10


def train_worker(config: dict[str, Any]) -> None:
    """Train as one of `world` workers; rank 0 also reports, keeps checkpoints and writes the bundle.

    Args:
        config: {"recipe": Recipe as JSON, "git_commit": str | None}; Ray Train hands it to every worker.
    """
    # Where a machine also serves, training is what yields.
    os.nice(NICENESS)
    recipe = Recipe.model_validate(config["recipe"])
    worker = _Worker(recipe)
    worker.resume()

    for epoch in range(worker.progress.epoch, recipe.stop.epochs):
        loss = worker.train_epoch(epoch)
        score = worker.evaluate(worker.splits.validation)
        worker.progress.epoch = epoch + 1
        worker.keep_best(score["accuracy"])
        metrics = {"epoch": epoch + 1, "loss": loss, "lr": worker.lr} | _prefixed("validation", score)
        worker.report(metrics)
        if worker.out_of_patience():
            break

    worker.load_best()
    score = worker.evaluate(worker.splits.test)
    worker.report(
        {"epoch": worker.progress.epoch, "best_epoch": worker.progress.best_epoch} | _prefixed("test", score),
        extra=lambda folder: _save_bundle(folder / "bundle", worker, score, config["git_commit"]),
    )


@dataclass
class _Totals:
    """Sums over rows that add up across batches and workers."""

    loss: float = 0.0
    correct: float = 0.0
    rows: float = 0.0

    def over_all_workers(self) -> "_Totals":
        if not dist.is_initialized():
            return self
        sums = torch.tensor([self.loss, self.correct, self.rows], dtype=torch.float64)
        sums = sums.to(ray.train.torch.get_device().type)
        dist.all_reduce(sums)
        return _Totals(*sums.tolist())


class _Worker:
    """The state of one worker: the same on all of them but for the rows that each sees."""

    def __init__(self, recipe: Recipe) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        if recipe.batch_rows % self.world:
            raise Mistake(f"batch_rows={recipe.batch_rows} does not divide over {self.world} workers; change one")
        self.recipe = recipe
        self.dataset: Dataset = data.load(recipe.data)
        self.splits: Splits = data.split(self.dataset, recipe.data)
        self.steps_per_epoch = len(self.splits.train) // recipe.batch_rows
        if not self.steps_per_epoch:
            raise Mistake(
                f"batch_rows={recipe.batch_rows} is more than the {len(self.splits.train)} training rows; lower it"
            )
        self.device = ray.train.torch.get_device()
        self.loss: Callable[..., Tensor] = load_path(recipe.loss.source)
        self.augment = augmentation(recipe)

        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(recipe.seed)
        self.net = build_net(recipe, self.splits.train).to(self.device)
        self.ddp = ray.train.torch.prepare_model(self.net) if self.world > 1 else self.net
        self.average = (
            AveragedModel(self.net, multi_avg_fn=_moving_average(recipe.ema_decay), use_buffers=True)
            if recipe.ema_decay
            else None
        )
        # Weights of the best epoch so far; what is published in the end.
        self.best = build_net(recipe, self.splits.train).to(self.device)
        self.optimiser = build_optimiser(recipe, self.net)
        self.schedule = LambdaLR(self.optimiser, _lr_factor(recipe, self.steps_per_epoch * recipe.stop.epochs))
        self.progress = checkpoint.Progress()

    @property
    def lr(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def scored(self) -> nn.Module:
        """The weights that are judged and published: the average where the recipe keeps one."""
        return self.average.module if self.average else self.net

    @property
    def _state(self) -> checkpoint.State:
        nets = {"net": self.net, "best": self.best} | ({"average": self.average} if self.average else {})
        return checkpoint.State(nets, self.optimiser, self.schedule, self.progress)

    def resume(self) -> None:
        """Go on from the last checkpoint, if this run has one."""
        last = ray.train.get_checkpoint()
        if last:
            with last.as_directory() as folder:
                checkpoint.restore(Path(folder), self._state)

    def train_epoch(self, epoch: int) -> float:
        """Pass once over the training rows; returns the mean loss per row over all workers."""
        recipe = self.recipe
        # One seed per (seed, epoch, rank): a resumed run draws what the uninterrupted one would have drawn.
        seed = (recipe.seed * 100_003 + epoch) * 1_009 + self.rank
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed + 1)
        self.ddp.train()
        totals = _Totals()
        for batch in data.batches(
            self.splits.train,
            batch_rows=recipe.batch_rows,
            seed=recipe.seed,
            epoch=epoch,
            rank=self.rank,
            world=self.world,
        ):
            x_B = self.augment(batch.inputs, generator)
            loss = self.loss(self.ddp(x_B.to(self.device)), batch.targets.to(self.device), **recipe.loss.args)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            if self.average:
                self.average.update_parameters(self.net)
            totals.loss += loss.item() * len(batch)
            totals.rows += len(batch)
        totals = totals.over_all_workers()
        mean = totals.loss / totals.rows
        if not math.isfinite(mean):
            raise Failure(
                f"the loss is {mean} in epoch {epoch + 1}; try a lower optimiser.lr (now {recipe.optimiser.lr})"
            )
        return mean

    @torch.inference_mode()
    def evaluate(self, rows: Rows) -> dict[str, float]:
        """Score held-out rows, each worker a share of them; the same result on every worker."""
        net = self.scored.eval()
        _same_buffers(net)
        totals = _Totals()
        for start in range(self.rank * EVALUATION_ROWS, len(rows), self.world * EVALUATION_ROWS):
            target_B = rows.targets[start : start + EVALUATION_ROWS].to(self.device)
            y_BC = net(rows.inputs[start : start + EVALUATION_ROWS].to(self.device))
            totals.loss += nn.functional.cross_entropy(y_BC, target_B, reduction="sum").item()
            totals.correct += (y_BC.argmax(1) == target_B).sum().item()
            totals.rows += len(target_B)
        totals = totals.over_all_workers()
        return {"accuracy": totals.correct / totals.rows, "cross_entropy": totals.loss / totals.rows}

    def keep_best(self, score: float) -> None:
        """Copy the scored weights where they are the best yet; of equal scores the later counts."""
        if score >= self.progress.best_score:
            self.progress.best_score, self.progress.best_epoch = score, self.progress.epoch
            self.best.load_state_dict(self.scored.state_dict())

    def out_of_patience(self) -> bool:
        patience = self.recipe.stop.patience
        return patience is not None and self.progress.epoch - self.progress.best_epoch >= patience

    def load_best(self) -> None:
        self.scored.load_state_dict(self.best.state_dict())

    def report(self, metrics: dict[str, float], extra: Callable[[Path], None] | None = None) -> None:
        """Report to Ray Train; rank 0 adds a checkpoint, and what `extra` writes beside it."""
        with _checkpoint_folder(self.rank) as folder:
            if folder is None:
                ray.train.report(metrics)
                return
            checkpoint.save(folder, self._state)
            if extra:
                extra(folder)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def build_net(recipe: Recipe, train: Rows) -> nn.Module:
    """Make the recipe's net, behind a layer that standardises by the training rows."""
    net = load_path(recipe.net.source)(**recipe.net.args)
    if not isinstance(net, nn.Module):
        raise Mistake(f"{recipe.net.source} returned a {type(net).__name__}; return a torch.nn.Module")
    return nn.Sequential(Standardise.fit(train.inputs), net) if recipe.standardise else net


def augmentation(recipe: Recipe) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Make the recipe's augmentation; without one, rows stay as they are."""
    if recipe.augment is None:
        return lambda x_B, generator: x_B
    return partial(load_path(recipe.augment.source), **recipe.augment.args)


def build_optimiser(recipe: Recipe, net: nn.Module) -> Optimizer:
    """Make the recipe's optimiser over the net's weights."""
    optimiser: Optimizer = getattr(torch.optim, recipe.optimiser.name)(
        net.parameters(), lr=recipe.optimiser.lr, **recipe.optimiser.args
    )
    return optimiser


def _lr_factor(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Build the multiplier of the peak learning rate at each step."""
    warmup = round(recipe.schedule.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if recipe.schedule.name == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _moving_average(decay: float) -> Callable[..., None]:
    """Build an exponential moving average whose decay rises with the steps, so that a short run forgets its start.

    decay_n = min(decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage has it.
    """

    @torch.no_grad()
    def update(average: list[Tensor], now: list[Tensor], steps: Tensor) -> None:
        n = float(steps)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for old, new in zip(average, now, strict=True):
            if old.is_floating_point():
                old.lerp_(new, weight)
            else:
                old.copy_(new)

    return update


def _same_buffers(net: nn.Module) -> None:
    """Give every worker rank 0's running statistics, which are the ones that are published."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)


def _prefixed(prefix: str, scores: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in scores.items()}


@contextmanager
def _checkpoint_folder(rank: int) -> Iterator[Path | None]:
    if rank:
        yield None
        return
    # Ray Train gives each worker a working folder inside its own temp dir.
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=Path.cwd()) as folder:
        yield Path(folder)


def _save_bundle(folder: Path, worker: _Worker, score: dict[str, float], git_commit: str | None) -> None:
    """Write the run's product: the scored net, on the CPU, with all that the card says of it."""
    splits, dataset, recipe = worker.splits, worker.dataset, worker.recipe
    about = bundle.About(
        name=recipe.name,
        task=recipe.task,
        words=dataset.words,
        answer=Classes(labels=dataset.labels),
        summary=recipe.summary,
        metrics=_prefixed("test", score),
        dataset=bundle.DatasetCard(
            source=dataset.source,
            licence=dataset.licence,
            fingerprint=dataset.fingerprint(),
            rows={part: len(rows) for part, rows in vars(splits).items()},
        ),
        recipe=recipe.model_dump(mode="json"),
        training={"workers": worker.world} | asdict(worker.progress),
        git_commit=git_commit,
    )
    bundle.save(folder, worker.scored.cpu(), inputs=splits.test.inputs[:2], about=about)

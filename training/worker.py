"""Worker: one worker's net, optimiser and rows; makes a step, scores held-out rows, keeps the best weights.

Train walk: prepare.py, assemble.py -> [worker.py] -> loop.py
"""
# Shapes: B rows of this worker's batch, N rows of a part, K facts of a row.

import math
from collections.abc import Callable
from functools import partial

import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from training import assemble, checkpoint, parallel, prepare, tasks
from training.feed import Feed, MemoryFeed
from training.parallel import local_gradients
from training.phases import Phases
from training.prepare import Rows
from training.recipe import Recipe, load_path
from training.tasks.base import Task


class Worker:
    """The state of one worker: the same on all of them but for the rows that each sees."""

    def __init__(self, recipe: Recipe, rank: int, world: int, phases: Phases) -> None:
        self.recipe, self.rank, self.world, self.phases = recipe, rank, world, phases
        self.device = ray.train.torch.get_device()
        self.dataset, self.index, fitted = prepare.load(recipe)
        self.task: Task = tasks.task_of(recipe, self.dataset, fitted)
        self.parts = {part: self.task.rows(self.dataset.select(index)) for part, index in self.index.items()}
        self.feed: Feed = MemoryFeed(recipe, self.parts, rank, world)
        self.augment = augmentation(recipe)

        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(recipe.seed)
        self.net = assemble.build_net(recipe, self.task, self.parts["train"]).to(self.device)
        self._trained = parallel.spread(recipe, self.net)
        phases.watch(self._trained)
        if recipe.compile:
            self._trained = torch.compile(self._trained)  # type: ignore[assignment]
        self.average = (
            AveragedModel(self.net, multi_avg_fn=_moving_average(recipe.ema_decay), use_buffers=True)
            if recipe.ema_decay
            else None
        )
        # Weights of the best epoch so far, whole, in this process's memory; what is published in the end.
        self.best: dict[str, Tensor] = {}
        self.optimiser = assemble.build_optimiser(recipe, self.net)
        self.schedule = LambdaLR(self.optimiser, _lr_factor(recipe, self.steps))
        self.progress = checkpoint.Progress()

    @property
    def steps(self) -> int:
        """Steps of the whole run, if nothing ends it before."""
        most = self.feed.steps_per_epoch * self.recipe.stop.epochs
        return min(most, self.recipe.stop.steps or most)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def scored(self) -> nn.Module:
        """The weights that are judged and published: the average where the recipe keeps one."""
        return self.average.module if self.average else self.net

    @property
    def state(self) -> checkpoint.State:
        """What a checkpoint holds."""
        nets = {"net": self.net} | ({"average": self.average} if self.average else {})
        return checkpoint.State(nets, self.best, self.optimiser, self.schedule, self.progress)

    def step(self, batch: Rows, seed: int) -> Tensor:
        """Make one optimiser step with this worker's share of its rows; returns their mean loss."""
        # A seed of its own for each step: a resumed run draws what the uninterrupted one would have drawn.
        torch.manual_seed(seed)
        self._trained.train()
        with self.phases.phase("data"):
            x_B, targets_B = self.augment(batch.inputs, batch.targets, torch.Generator().manual_seed(seed + 1))
            batch = Rows(x_B, targets_B, batch.lengths, batch.weights)
        pieces = [batch] if self.recipe.accumulate == 1 else _cut(batch, self.recipe.accumulate)
        total = torch.zeros((), device=self.device)
        for index, piece in enumerate(pieces):
            # A mean over all workers' rows, however unevenly these are dealt out.
            share = len(piece) * self.world / self.recipe.batch_rows
            with local_gradients(self._trained, wanted=index < len(pieces) - 1):
                with self.phases.phase("forward"), self._precision():
                    rows = self._moved(piece)
                    loss = self.task.loss(self._trained(rows.inputs), rows)
                with self.phases.phase("backward"):
                    (loss * share).backward()
            total += loss.detach() * (len(piece) / len(batch))
        with self.phases.phase("optimiser"):
            if self.recipe.clip:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.schedule.step()
            if self.average:
                self.average.update_parameters(self.net)
        return total

    @torch.no_grad()
    def facts(self, part: str) -> Tensor:
        """What is to be known of each held-out row, (N, K); the same on every worker, each having done a share."""
        net = self.scored.eval()
        _same_buffers(net)
        found = []
        for batch in self.feed.held_out(part):
            rows = self._moved(batch)
            found.append(self.task.facts(net, net(rows.inputs), rows).cpu())
        return parallel.gathered(torch.cat(found) if found else torch.zeros(0, 0))

    def keep_best(self, score: float) -> None:
        """Copy the scored weights where they are the best yet; of equal scores the later counts."""
        best = self.progress.best_score
        if best is None or (score >= best if self.task.higher else score <= best):
            self.progress.best_score, self.progress.best_epoch = score, self.progress.epoch
            self.best.update(parallel.copied(self.scored))

    def load_best(self) -> None:
        """Go back to the weights of the best epoch."""
        if self.best:
            parallel.load(self.scored, self.best)

    def published(self) -> nn.Module:
        """The net that is published, whole and on the CPU."""
        net = assemble.build_net(self.recipe, self.task, self.parts["train"])
        net.load_state_dict(self.best)
        return net.eval()

    def _moved(self, rows: Rows) -> Rows:
        if self.device.type == "cpu":
            return rows
        return Rows(*(None if t is None else t.to(self.device) for t in vars(rows).values()))  # type: ignore[arg-type]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def augmentation(recipe: Recipe) -> Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]:
    """Make the recipe's augmentation; without one, rows stay as they are."""
    if recipe.augment is None:
        return lambda x_B, targets_B, generator: (x_B, targets_B)
    return partial(load_path(recipe.augment.source), **recipe.augment.args)


def _cut(batch: Rows, pieces: int) -> list[Rows]:
    index = torch.arange(len(batch)).tensor_split(pieces)
    return [batch.select(part) for part in index if len(part)]


def _lr_factor(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Build the multiplier of the peak learning rate at each step."""
    warmup = round(recipe.schedule.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if recipe.schedule.name == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

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

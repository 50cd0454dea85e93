"""Worker: one worker's net, optimiser and rows; makes a step, scores held-out rows, keeps the best weights.

Train walk: prepare.py, assemble.py -> [worker.py] -> loop.py
"""
# Shapes: B rows of this worker's batch, N rows of a part, K facts of a row.

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from training import assemble, parallel, prepare, tasks
from training.average import Average
from training.feed import Feed, MemoryFeed, StreamFeed
from training.files.survey import Survey
from training.parallel import local_gradients
from training.phases import Phases
from training.prepare import Rows
from training.recipe import Recipe, load_path
from training.recovery import checkpoint
from training.tasks.base import Task


class Worker:
    """The state of one worker: the same on all of them but for the rows that each sees."""

    def __init__(
        self,
        recipe: Recipe,
        rank: int,
        world: int,
        phases: Phases,
        progress: checkpoint.Progress,
        survey: Survey | None = None,
    ) -> None:
        self.recipe, self.rank, self.world, self.phases, self.progress = recipe, rank, world, phases, progress
        self.device = ray.train.torch.get_device()
        self.dataset, self.index, fitted = prepare.load(recipe, survey)
        self.task: Task = tasks.task_of(recipe, self.dataset, fitted)
        self.parts = {part: self.task.rows(self.dataset.select(index)) for part, index in self.index.items()}
        self.feed: Feed = (
            StreamFeed(recipe, self.task, survey, self.parts, rank, world)
            if survey
            else MemoryFeed(recipe, self.parts, rank, world)
        )
        self.augment = augmentation(recipe)
        self._generator = torch.Generator()

        torch.use_deterministic_algorithms(True, warn_only=True)
        # Every new tensor would be filled before it is written, to find those who read it sooner; a tenth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(recipe.seed)
        self.net = assemble.build_net(recipe, self.task, self.parts["train"]).to(self.device)
        self._trained = parallel.spread(recipe, self.net)
        phases.watch(self._trained)
        if recipe.compile:
            self._trained = torch.compile(self._trained)  # type: ignore[assignment]
        self._trained.train()
        self.average = Average(self.net, recipe.ema_decay) if recipe.ema_decay else None
        # Weights of the best epoch so far, whole, in this process's memory; what is published in the end.
        self.best: dict[str, Tensor] = {}
        self.optimiser = assemble.build_optimiser(recipe, self.net)
        self.schedule = LambdaLR(self.optimiser, _lr_factor(recipe, self.steps))

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
        self._draw_from(seed)
        # Only where an evaluation came between: in a small net, to tell every layer costs as much as one.
        if not self.net.training:
            self._trained.train()
        with self.phases.phase("data"):
            x_B, targets_B = self.augment(batch.inputs, batch.targets, self._generator.manual_seed(seed + 1))
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
                self.average.update()
        return total

    @torch.no_grad()
    def facts(self, part: str) -> Tensor:
        """What is to be known of each held-out row, (N, K); the same on every worker, each having done a share."""
        net = self.scored.eval()
        _same_buffers(net)
        found = []
        batches = list(self.feed.held_out(part))
        idle = parallel.most(len(batches)) - len(batches) if self.recipe.parallel == "fsdp" else 0
        for batch in batches:
            rows = self._moved(batch)
            found.append(self.task.facts(net, net(rows.inputs), rows).cpu())
        for _ in range(idle):
            # Without a row left: all workers put the net together, for each pass of any of them.
            rows = self._moved(self.parts[part].select(slice(0, 1)))
            self.task.facts(net, net(rows.inputs), rows)
        return parallel.gathered(torch.cat(found) if found else torch.zeros(0, 0))

    def keep_best(self, score: float) -> None:
        """Copy the scored weights where they are the best yet; of equal scores the later counts."""
        progress, best = self.progress, self.progress.best_score
        if best is None or math.isnan(best) or (score > best if self.task.higher else score < best):
            progress.risen_epoch = progress.epoch
        elif score != best:
            return
        progress.best_score, progress.best_epoch = score, progress.epoch
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

    def _draw_from(self, seed: int) -> None:
        """Seed what dropout draws from, anew for each step: a resumed run draws what an uninterrupted one would have.

        torch.manual_seed would remember where it was called from, each time, where there are no GPUs.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def _precision(self) -> AbstractContextManager[object]:
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


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


def _same_buffers(net: nn.Module) -> None:
    """Give every worker rank 0's running statistics, which are the ones that are published."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)

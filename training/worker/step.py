"""Worker: one worker's net, optimiser and rows; makes a step, scores held-out rows, keeps the best weights.

Train walk: preprocessing.py, build.py -> [worker.py] -> loop.py
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

from training import tasks
from training.data.files.scan import FileScan
from training.data.preprocessing import EncodedRows, prepare_dataset
from training.recipe.load import import_path
from training.recipe.spec import Recipe
from training.tasks.base import Task
from training.worker import build, checkpoint, parallel
from training.worker.ema import ExponentialMovingAverage
from training.worker.feed import Feed, MemoryFeed, StreamFeed
from training.worker.parallel import skip_gradient_sync
from training.worker.step_timer import StepTimer


class Worker:
    """The state of one worker: the same on all of them but for the rows that each sees."""

    def __init__(
        self,
        recipe: Recipe,
        rank: int,
        world: int,
        phases: StepTimer,
        progress: checkpoint.TrainProgress,
        survey: FileScan | None = None,
    ) -> None:
        self.recipe, self.rank, self.world, self.timer, self.progress = recipe, rank, world, phases, progress
        self.device = ray.train.torch.get_device()
        self.dataset, self.split_index, fitted = prepare_dataset(recipe, survey)
        self.task: Task = tasks.make_task(recipe, self.dataset, fitted)
        self.splits = {
            part: self.task.encode_rows(self.dataset.select(index)) for part, index in self.split_index.items()
        }
        self.feed: Feed = (
            StreamFeed(recipe, self.task, survey, self.splits, rank, world)
            if survey
            else MemoryFeed(recipe, self.splits, rank, world)
        )
        self.augmentation = build_augmentation(recipe)
        self._generator = torch.Generator()

        torch.use_deterministic_algorithms(True, warn_only=True)
        # Every new tensor would be filled before it is written, to find those who read it sooner; a tenth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(recipe.seed)
        self.net = build.build_net(recipe, self.task, self.splits["train"]).to(self.device)
        self._train_net = parallel.parallelize(recipe, self.net)
        phases.watch_all_reduce(self._train_net)
        if recipe.compile:
            self._train_net = torch.compile(self._train_net)  # type: ignore[assignment]
        self._train_net.train()
        self.ema = ExponentialMovingAverage(self.net, recipe.ema_decay) if recipe.ema_decay else None
        # Weights of the best epoch so far, whole, in this process's memory; what is published in the end.
        self.best: dict[str, Tensor] = {}
        self.optimizer = build.build_optimizer(recipe, self.net)
        self.schedule = LambdaLR(self.optimizer, _lr_factor(recipe, self.total_steps))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, if nothing ends it before."""
        most = self.feed.steps_per_epoch * self.recipe.stop.epochs
        return min(most, self.recipe.stop.steps or most)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def eval_net(self) -> nn.Module:
        """The weights that are judged and published: the average where the recipe keeps one."""
        return self.ema.module if self.ema else self.net

    @property
    def state(self) -> checkpoint.TrainState:
        """What a checkpoint holds."""
        nets = {"net": self.net} | ({"average": self.ema} if self.ema else {})
        return checkpoint.TrainState(nets, self.best, self.optimizer, self.schedule, self.progress)

    def train_step(self, batch: EncodedRows, seed: int) -> Tensor:
        """Make one optimiser step with this worker's share of its rows; returns their mean loss."""
        self._seed_dropout(seed)
        # Only where an evaluation came between: in a small net, to tell every layer costs as much as one.
        if not self.net.training:
            self._train_net.train()
        with self.timer.measure("data"):
            x_B, targets_B = self.augmentation(batch.inputs, batch.targets, self._generator.manual_seed(seed + 1))
            batch = EncodedRows(x_B, targets_B, batch.lengths, batch.weights)
        pieces = (
            [batch] if self.recipe.gradient_accumulation == 1 else _split_rows(batch, self.recipe.gradient_accumulation)
        )
        total = torch.zeros((), device=self.device)
        for index, piece in enumerate(pieces):
            # A mean over all workers' rows, however unevenly these are dealt out.
            share = len(piece) * self.world / self.recipe.batch_size
            with skip_gradient_sync(self._train_net, skip=index < len(pieces) - 1):
                with self.timer.measure("forward"), self._autocast():
                    rows = self._to_device(piece)
                    loss = self.task.loss(self._train_net(rows.inputs), rows)
                with self.timer.measure("backward"):
                    (loss * share).backward()
            total += loss.detach() * (len(piece) / len(batch))
        with self.timer.measure("optimizer"):
            if self.recipe.clip_grad_norm:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            if self.ema:
                self.ema.update()
        return total

    @torch.no_grad()
    def compute_eval_outputs(self, part: str) -> Tensor:
        """What is to be known of each held-out row, (N, K); the same on every worker, each having done a share."""
        net = self.eval_net.eval()
        _broadcast_buffers(net)
        found = []
        batches = list(self.feed.held_out_batches(part))
        idle = parallel.all_reduce_max(len(batches)) - len(batches) if self.recipe.parallel == "fsdp" else 0
        for batch in batches:
            rows = self._to_device(batch)
            found.append(self.task.eval_outputs(net, net(rows.inputs), rows).cpu())
        for _ in range(idle):
            # Without a row left: all workers put the net together, for each pass of any of them.
            rows = self._to_device(self.splits[part].select(slice(0, 1)))
            self.task.eval_outputs(net, net(rows.inputs), rows)
        return parallel.all_gather_rows(torch.cat(found) if found else torch.zeros(0, 0))

    def keep_best(self, score: float) -> None:
        """Copy the scored weights where they are the best yet; of equal scores the later counts."""
        progress, best = self.progress, self.progress.best_score
        if best is None or math.isnan(best) or (score > best if self.task.higher_is_better else score < best):
            progress.last_improved_epoch = progress.epoch
        elif score != best:
            return
        progress.best_score, progress.best_epoch = score, progress.epoch
        self.best.update(parallel.full_state_dict(self.eval_net))

    def load_best(self) -> None:
        """Go back to the weights of the best epoch."""
        if self.best:
            parallel.load_full_state_dict(self.eval_net, self.best)

    def build_published_net(self) -> nn.Module:
        """The net that is published, whole and on the CPU."""
        net = build.build_net(self.recipe, self.task, self.splits["train"])
        net.load_state_dict(self.best)
        return net.eval()

    def _to_device(self, rows: EncodedRows) -> EncodedRows:
        if self.device.type == "cpu":
            return rows
        return EncodedRows(*(None if t is None else t.to(self.device) for t in vars(rows).values()))  # type: ignore[arg-type]

    def _seed_dropout(self, seed: int) -> None:
        """Seed what dropout draws from, anew for each step: a resumed run draws what an uninterrupted one would have.

        torch.manual_seed would remember where it was called from, each time, where there are no GPUs.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def build_augmentation(recipe: Recipe) -> Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]:
    """Make the recipe's augmentation; without one, rows stay as they are."""
    if recipe.augmentation is None:
        return lambda x_B, targets_B, generator: (x_B, targets_B)
    return partial(import_path(recipe.augmentation.source), **recipe.augmentation.args)


def _split_rows(batch: EncodedRows, pieces: int) -> list[EncodedRows]:
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


def _broadcast_buffers(net: nn.Module) -> None:
    """Give every worker rank 0's running statistics, which are the ones that are published."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)

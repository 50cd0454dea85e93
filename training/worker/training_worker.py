"""Training worker: net, optimizer and rows of one; makes an optimizer step, evaluates, keeps the best weights.

Train walk: loop.py -> [training_worker.py] -> build.py, gradients.py
Knows nothing of epochs, checkpoints on disk or Ray Train's reports.
"""
# Shapes: B rows of this worker's share of the batch, N rows of a split, K eval outputs of a row.

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from training import tasks
from training.data.files.scan import FileScan
from training.data.preprocessing import EncodedRows, prepare_dataset
from training.recipe.spec import Recipe
from training.tasks.base import Task
from training.worker import build, checkpoint, parallel
from training.worker.ema import ExponentialMovingAverage
from training.worker.feed import Feed, MemoryFeed, StreamFeed
from training.worker.step_timer import StepTimer


class GradientStep(Protocol):
    """Computes the gradients of one optimizer step."""

    def __call__(self, batch: EncodedRows) -> Tensor:
        """Set `grad` of the net's parameters, the same on all workers (of a sharded net, each worker its shards).

        Args:
            batch: this worker's rows of the step, augmented; B is at least 1 and may differ by one between workers.

        Returns:
            The mean loss of these rows, float32, shape (), detached.
        """


GradientStepFactory = Callable[["Worker"], GradientStep]
"""Makes a worker's strategy once its net is built."""


class Worker:
    """One worker's state; it differs between workers in the rows that each has.

    Attributes:
        net: the net itself, whose state is saved and published.
        parallel_net: the same net as it is synchronized: wrapped by DDP, or sharded in place by FSDP2.
        train_net: what a training step calls: `parallel_net`, compiled where the recipe says so.
        best_weights: state dict of the best epoch so far, on rank 0's CPU; empty on the others and before the first.
    """

    def __init__(
        self,
        recipe: Recipe,
        rank: int,
        world_size: int,
        timer: StepTimer,
        progress: checkpoint.TrainProgress,
        scan: FileScan | None,
        gradient_step: GradientStepFactory,
    ) -> None:
        self.recipe, self.rank, self.world_size, self.timer, self.progress = recipe, rank, world_size, timer, progress
        self.device = ray.train.torch.get_device()
        self.dataset, self.split_index, preprocessing = prepare_dataset(recipe, scan)
        self.task: Task = tasks.make_task(recipe, self.dataset, preprocessing)
        self.splits = {
            split: self.task.encode_rows(self.dataset.select(index)) for split, index in self.split_index.items()
        }
        self.feed: Feed = (
            StreamFeed(recipe, self.task, scan, self.splits, rank, world_size)
            if scan
            else MemoryFeed(recipe, self.splits, rank, world_size)
        )
        self.augment = build.build_augmentation(recipe)
        self._augmentation_generator = torch.Generator()

        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling every new tensor, to expose code that reads it too early, costs a tenth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(recipe.seed)
        self.net = build.build_net(recipe, self.task, self.splits["train"]).to(self.device)
        self.parallel_net = parallel.parallelize(recipe, self.net)
        timer.watch_all_reduce(self.parallel_net)
        self.train_net: Callable[..., Tensor | tuple[Tensor, ...]] = (
            torch.compile(self.parallel_net) if recipe.compile else self.parallel_net
        )
        self.parallel_net.train()
        self.ema = ExponentialMovingAverage(self.net, recipe.ema_decay) if recipe.ema_decay else None
        self.best_weights: dict[str, Tensor] = {}
        self.optimizer = build.build_optimizer(recipe, self.net)
        self.schedule = build.build_schedule(recipe, self.optimizer, self.total_steps)
        self._compute_gradients = gradient_step(self)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, unless another stop rule ends it earlier."""
        max_steps = self.feed.steps_per_epoch * self.recipe.stop.epochs
        return min(max_steps, self.recipe.stop.steps or max_steps)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def eval_net(self) -> nn.Module:
        """The net that is evaluated and published: the moving average where the recipe keeps one."""
        return self.ema.module if self.ema else self.net

    @property
    def state(self) -> checkpoint.TrainState:
        """What a checkpoint holds."""
        return checkpoint.TrainState(
            self.net, self.ema, self.best_weights, self.optimizer, self.schedule, self.progress
        )

    def train_step(self, batch: EncodedRows, seed: int) -> Tensor:
        """Make one optimizer step with this worker's rows of the batch; returns their mean loss, shape ()."""
        self._seed_dropout(seed)
        # Only after an evaluation: in a small net, setting the mode of every layer takes as long as one of them.
        if not self.net.training:
            self.parallel_net.train()
        with self.timer.measure("data"):
            generator = self._augmentation_generator.manual_seed(seed + 1)
            x_B, targets_B = self.augment(batch.inputs, batch.targets, generator)
            batch = EncodedRows(x_B, targets_B, batch.lengths, batch.weights)
        loss = self._compute_gradients(batch)
        with self.timer.measure("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            if self.ema:
                self.ema.update_parameters(self.net)
        return loss

    @torch.no_grad()
    def compute_eval_outputs(self, split: str) -> Tensor:
        """Evaluate a held-out split, each worker its share; returns (N, K), the same on all of them."""
        net = self.eval_net.eval()
        _broadcast_buffers(net)
        eval_outputs = []
        batches = list(self.feed.held_out_batches(split))
        is_sharded = self.recipe.parallel == "fsdp"
        missing_passes = parallel.all_reduce_max(len(batches)) - len(batches) if is_sharded else 0
        for batch in batches:
            rows = self.to_device(batch)
            eval_outputs.append(self.task.eval_outputs(net, net(rows.inputs), rows).cpu())
        for _ in range(missing_passes):
            # All workers gather the shards for each pass of any of them, also those with fewer batches.
            rows = self.to_device(self.splits[split].select(slice(0, 1)))
            self.task.eval_outputs(net, net(rows.inputs), rows)
        return parallel.all_gather_rows(torch.cat(eval_outputs) if eval_outputs else torch.zeros(0, 0))

    def keep_best(self, score: float) -> None:
        """Copy the evaluated weights where their score is the best so far; of equal scores the later wins."""
        progress, best_score = self.progress, self.progress.best_score
        if best_score is None or math.isnan(best_score):
            improved = True
        else:
            improved = score > best_score if self.task.higher_is_better else score < best_score
        if improved:
            progress.last_improved_epoch = progress.epoch
        elif score != best_score:
            return
        progress.best_score, progress.best_epoch = score, progress.epoch
        self.best_weights.update(parallel.get_full_state(self.eval_net))

    def load_best(self) -> None:
        """Load the weights of the best epoch on all workers."""
        if self.progress.best_epoch:
            parallel.broadcast_full_state(self.eval_net, self.best_weights)

    def build_published_net(self) -> nn.Module:
        """Build the net that is published, on the CPU; rank 0 only."""
        net = build.build_net(self.recipe, self.task, self.splits["train"])
        net.load_state_dict(self.best_weights)
        return net.eval()

    def to_device(self, rows: EncodedRows) -> EncodedRows:
        """Move rows to this worker's device."""
        if self.device.type == "cpu":
            return rows
        return EncodedRows(*(None if t is None else t.to(self.device) for t in vars(rows).values()))  # type: ignore[arg-type]

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the recipe's precision within the block."""
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _seed_dropout(self, seed: int) -> None:
        """Seed dropout for each step, so that a resumed run draws what an uninterrupted one would have.

        torch.manual_seed is slower where there is no GPU: it queues each call, with its stack, for CUDA.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)


def _broadcast_buffers(net: nn.Module) -> None:
    """Give every worker rank 0's running statistics, which are the published ones."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)

"""The same training written for torchrun: DDP on gloo, no Ray; prints a JSON line for the first step and each epoch.

torchrun --nproc-per-node 2 torchrun_peer.py RECIPE SECONDS [KEY=VALUE ...]
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.data.cleaning import clean_dataset
from training.data.dataset import load_dataset
from training.data.input_layers import Standardize
from training.data.split import split_dataset
from training.recipe.load import import_path, load_recipe, override_recipe
from training.recipe.spec import Data, Recipe

# As of Shoal's workers, so that replicas on the same machine have priority.
NICENESS = 10


def main(recipe: Recipe, seconds: float) -> None:
    """Train until the time is up."""
    os.nice(NICENESS)
    dist.init_process_group("gloo")
    torch.manual_seed(recipe.seed)
    assert isinstance(recipe.data, Data)
    dataset = clean_dataset(load_dataset(recipe.data), recipe.clean)
    splits = split_dataset(dataset, recipe.data)
    assert isinstance(dataset.inputs, Tensor)
    assert isinstance(dataset.targets, Tensor)
    x, y = dataset.inputs[splits["train"]], dataset.targets[splits["train"]]
    net = DistributedDataParallel(nn.Sequential(Standardize.fit(x), import_path(recipe.net.source)(**recipe.net.args)))
    ema = AveragedModel(net.module, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.optimizer.lr, **dict[str, Any](recipe.optimizer.args))
    steps_per_epoch = len(x) // recipe.batch_size
    schedule = LambdaLR(optimizer, make_lr_factor(recipe, steps_per_epoch * recipe.stop.epochs))
    training_s = 0.0
    for epoch in range(recipe.stop.epochs):
        start = time.perf_counter()
        train_epoch(recipe, net, ema, optimizer, schedule, (x, y), epoch)
        epoch_s = time.perf_counter() - start
        print_message("steps", epoch=epoch, rows=steps_per_epoch * recipe.batch_size, seconds=epoch_s)
        validate(ema.module, dataset.inputs[splits["validation"]], dataset.targets[splits["validation"]])
        training_s += epoch_s
        is_over = torch.tensor(training_s >= seconds)
        dist.broadcast(is_over, src=0)
        if is_over:
            break
    # DDP's threads end with the module; destroying the group before aborted the process in a quarter of the runs.
    del net, ema, optimizer, schedule
    dist.destroy_process_group()


def make_lr_factor(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """Return a schedule with linear warm-up from 0 and cosine decay."""
    warmup_steps = recipe.schedule.warmup * total_steps

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))

    return factor


def train_epoch(
    recipe: Recipe,
    net: DistributedDataParallel,
    ema: AveragedModel,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    rows: tuple[Tensor, Tensor],
    epoch: int,
) -> float:
    """Pass over the training rows once; returns the mean loss."""
    x, y = rows
    assert recipe.augmentation is not None
    augment = import_path(recipe.augmentation.source)
    generator = torch.Generator().manual_seed(epoch * dist.get_world_size() + dist.get_rank())
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
    total = torch.zeros(())
    net.train()
    steps = len(x) // recipe.batch_size
    for step in range(steps):
        shard = order[step * recipe.batch_size : (step + 1) * recipe.batch_size][
            dist.get_rank() :: dist.get_world_size()
        ]
        x_B, y_B = augment(x[shard], y[shard], generator, **recipe.augmentation.args)
        loss = F.cross_entropy(net(x_B), y_B)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.update_parameters(net.module)
        total += loss.detach()
        if epoch == step == 0:
            print_message("first step")
    return total.item() / steps


@torch.no_grad()
def validate(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Compute the accuracy, each worker on its shard."""
    net.eval()
    shard = slice(dist.get_rank(), None, dist.get_world_size())
    counts = torch.tensor([0.0, 0.0])
    for x_B, y_B in zip(x[shard].split(512), y[shard].split(512), strict=True):
        counts += torch.tensor([(net(x_B).argmax(1) == y_B).sum(), len(y_B)])
    dist.all_reduce(counts)
    return float(counts[0] / counts[1])


def print_message(kind: str, **values: float) -> None:
    """Print a JSON line, on the first worker only."""
    if dist.get_rank() == 0:
        print(json.dumps({"kind": kind, "at_s": time.time(), **values}), flush=True)


if __name__ == "__main__":
    main(override_recipe(load_recipe(sys.argv[1]), sys.argv[3:]), float(sys.argv[2]))

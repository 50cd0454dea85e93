"""The same training written plainly for torchrun: DDP on gloo, no Ray; a line of JSON for the first step and epochs.

torchrun --nproc-per-node 2 torchrun_peer.py RECIPE SECONDS [KEY=VALUE ...]
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable

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
from training.recipe.spec import Recipe

# As Shoal's workers: what serves on the same machine comes first.
NICENESS = 10


def main(recipe: Recipe, seconds: float) -> None:
    """Train until the time is up."""
    os.nice(NICENESS)
    dist.init_process_group("gloo")
    torch.manual_seed(recipe.seed)
    dataset = clean_dataset(load_dataset(recipe.data), recipe.clean)
    parts = split_dataset(dataset, recipe.data)
    assert isinstance(dataset.inputs, Tensor)
    assert isinstance(dataset.targets, Tensor)
    x, y = dataset.inputs[parts["train"]], dataset.targets[parts["train"]]
    net = DistributedDataParallel(nn.Sequential(Standardize.fit(x), import_path(recipe.net.source)(**recipe.net.args)))
    average = AveragedModel(net.module, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.optimizer.lr, **recipe.optimizer.args)
    steps = len(x) // recipe.batch_size
    schedule = LambdaLR(optimiser, lr_factor(recipe, steps * recipe.stop.epochs))
    trained = 0.0
    for epoch in range(recipe.stop.epochs):
        start = time.perf_counter()
        train_epoch(recipe, net, average, optimiser, schedule, (x, y), epoch)
        took = time.perf_counter() - start
        tell("steps", epoch=epoch, rows=steps * recipe.batch_size, seconds=took)
        validate(average.module, dataset.inputs[parts["validation"]], dataset.targets[parts["validation"]])
        trained += took
        over = torch.tensor(trained >= seconds)
        dist.broadcast(over, src=0)
        if over:
            break
    # DDP's threads end with it; torch aborts the process, one time in four, where the group goes before them.
    del net, average, optimiser, schedule
    dist.destroy_process_group()


def lr_factor(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Rise from 0 over the warm-up, then fall along a cosine."""
    warmup = recipe.schedule.warmup * steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    return factor


def train_epoch(
    recipe: Recipe,
    net: DistributedDataParallel,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
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
        mine = order[step * recipe.batch_size : (step + 1) * recipe.batch_size][
            dist.get_rank() :: dist.get_world_size()
        ]
        x_B, y_B = augment(x[mine], y[mine], generator, **recipe.augmentation.args)
        loss = F.cross_entropy(net(x_B), y_B)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        average.update_parameters(net.module)
        total += loss.detach()
        if epoch == step == 0:
            tell("first step")
    return total.item() / steps


@torch.no_grad()
def validate(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy, each worker having judged its share."""
    net.eval()
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    right = torch.tensor([0.0, 0.0])
    for x_B, y_B in zip(x[mine].split(512), y[mine].split(512), strict=True):
        right += torch.tensor([(net(x_B).argmax(1) == y_B).sum(), len(y_B)])
    dist.all_reduce(right)
    return float(right[0] / right[1])


def tell(kind: str, **values: float) -> None:
    """Print what happened, once for all workers."""
    if dist.get_rank() == 0:
        print(json.dumps({"kind": kind, "at_s": time.time(), **values}), flush=True)


if __name__ == "__main__":
    main(override_recipe(load_recipe(sys.argv[1]), sys.argv[3:]), float(sys.argv[2]))

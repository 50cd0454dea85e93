"""How one net is trained by many workers: copied to each (DDP), or sharded over them (FSDP2).

Li et al., "PyTorch Distributed", 2020; Zhao et al., "PyTorch FSDP", 2023. What is kept of a run is whole in either
case, so that a checkpoint of N workers opens with M.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from training.data.input_layers import Standardize
from training.recipe.spec import Recipe

# Layers whose buffers no training pass reads, or none writes. Running statistics are looked at in evaluation, before
# which rank 0's go to all (worker.py); sent before every step, they make all workers wait for each other once more.
LAYERS_WITH_UNREAD_BUFFERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, Standardize)


def parallelize(recipe: Recipe, net: nn.Module) -> nn.Module:
    """Make the module that is called in training: its gradients are means over all workers."""
    if not dist.is_initialized():
        return net
    if recipe.parallel == "fsdp":
        mesh = init_device_mesh(ray.train.torch.get_device().type, (dist.get_world_size(),))
        # Each block is gathered by itself, just before it is needed: only one is whole at a time.
        for block in _blocks(net):
            fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
        return net
    options = {
        # Gradients are written where they are sent from, which saves a copy of them all.
        "gradient_as_bucket_view": True,
        "broadcast_buffers": needs_buffer_broadcast(net),
    }
    wrapped: nn.Module = ray.train.torch.prepare_model(net, parallel_strategy_kwargs=options)
    return wrapped


def needs_buffer_broadcast(net: nn.Module) -> bool:
    """Whether a training pass may depend on buffers that other passes wrote, so that all workers must have the same."""
    return any(module._buffers and type(module) not in LAYERS_WITH_UNREAD_BUFFERS for module in net.modules())


@contextmanager
def skip_gradient_sync(net: nn.Module, skip: bool) -> Iterator[None]:
    """Keep gradients on this worker for now, because another forward pass of the same step follows."""
    net = getattr(net, "_orig_mod", net)  # what torch.compile wrapped
    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(not skip)
        yield
    elif skip and isinstance(net, DistributedDataParallel):
        with net.no_sync():
            yield
    else:
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """Put a sharded tensor together; all workers must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(net: nn.Module) -> dict[str, Tensor]:
    """A net's whole state, copied to this worker's memory; all workers must ask for it."""
    return {key: full_tensor(value.detach()).cpu().clone() for key, value in net.state_dict().items()}


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Shard a whole tensor as the other one is."""
    if isinstance(other, DTensor) and tensor.shape == other.shape:
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor


@torch.no_grad()
def load_full_state_dict(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a net, sharded or not, a whole state."""
    now = net.state_dict()
    net.load_state_dict({key: shard_like(value, now[key]) for key, value in state.items()})


def all_reduce_max(count: int) -> int:
    """The largest of all workers' counts; all workers must ask for it."""
    if not dist.is_initialized():
        return count
    found = torch.tensor(count, device=ray.train.torch.get_device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def all_gather_rows(facts_NK: Tensor) -> Tensor:
    """Put the facts of all workers together, (sum of N, K); all workers must ask for it."""
    if not dist.is_initialized():
        return facts_NK
    device = ray.train.torch.get_device()
    size = torch.tensor(facts_NK.shape, device=device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    rows, columns = (int(max(s[axis] for s in sizes)) for axis in (0, 1))
    # A worker without a row of this part knows no number of facts either.
    mine = torch.zeros(rows, columns, device=device)
    mine[: len(facts_NK), : facts_NK.shape[1]] = facts_NK.to(device)
    parts = [torch.empty_like(mine) for _ in sizes]
    dist.all_gather(parts, mine)
    return torch.cat([part[: int(s[0])] for part, s in zip(parts, sizes, strict=True)]).cpu()


def _blocks(net: nn.Module) -> list[nn.Module]:
    """The layers that repeat: the items of every ModuleList, else the net's own children."""
    lists = [list(module) for module in net.modules() if isinstance(module, nn.ModuleList)]
    found = [block for blocks in lists for block in blocks] or list(net.children())
    return [block for block in found if any(True for _ in block.parameters())]

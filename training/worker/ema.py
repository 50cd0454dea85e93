"""Average: a second copy of a net that follows the trained one slowly; it is what is judged and published.

Train walk: worker.py -> [average.py]
torch.optim.swa_utils.AveragedModel looks for all tensors of both nets at every step; in a small net that costs as much
as a layer.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage(nn.Module):
    """An exponential moving average of a net's weights and running statistics.

    Its decay rises with the steps, so that a short run forgets its start: min(decay, (1 + n) / (10 + n)), as
    TensorFlow's ExponentialMovingAverage has it.
    """

    steps: Tensor

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(net)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._decay = decay
        # A net may put another tensor in a buffer's place; a weight stays the tensor that the optimiser knows.
        self._weights = [weight.detach() for weight in self.module.parameters()]
        self._net_weights = [weight.detach() for weight in net.parameters()]
        self._buffers_of = [
            (mine._buffers, theirs._buffers) for mine, theirs in zip(self.module.modules(), net.modules(), strict=True)
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the net as it is now; the first time, all the way."""
        n = int(self.steps)
        weight = 1 - min(self._decay, (1 + n) / (10 + n)) if n else 1.0
        torch._foreach_lerp_(self._weights, self._net_weights, weight)
        for mine, theirs in self._buffers_of:
            for name, old in mine.items():
                new = theirs[name]
                if old is None or new is None:
                    continue
                if old.is_floating_point():
                    old.lerp_(new, weight)
                else:
                    old.copy_(new)
        self.steps += 1

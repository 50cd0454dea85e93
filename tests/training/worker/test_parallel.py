"""Which buffers workers exchange at every step, and which only before an evaluation."""

import torch
from torch import Tensor, nn

from training.recipe.load import import_path, load_recipe
from training.worker import parallel


class Codebook(nn.Module):
    """Codes that follow the inputs, and that the next pass reads (van den Oord et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_buffers_are_broadcast_only_where_a_training_pass_reads_them() -> None:
    recipe = load_recipe("digits-cnn")
    cnn = import_path(recipe.net.source)(**recipe.net.args)
    assert any(True for _ in cnn.buffers())
    assert not parallel.needs_buffer_broadcast(cnn)
    assert parallel.needs_buffer_broadcast(nn.Sequential(cnn, Codebook()))

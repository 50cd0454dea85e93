"""What workers tell each other at every step, and what only before an evaluation."""

import torch
from torch import Tensor, nn

from training.recipe.load import import_path, load_recipe
from training.worker import parallel


class Codebook(nn.Module):
    """Words that follow what passes by, and that the next pass reads (van den Oord et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_running_statistics_wait_for_the_evaluation_and_what_a_pass_reads_does_not() -> None:
    recipe = load_recipe("digits-cnn")
    cnn = import_path(recipe.net.source)(**recipe.net.args)
    assert any(True for _ in cnn.buffers())
    assert not parallel.needs_buffer_broadcast(cnn)
    assert parallel.needs_buffer_broadcast(nn.Sequential(cnn, Codebook()))

import pytest
import torch
from torch import nn

from training.recipe.spec import Data, Net, Optimizer, Recipe
from training.worker import build


def train(config: Optimizer) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """Make five steps; returns the weights and the optimizer."""
    recipe = Recipe(
        name="x",
        task="tabular-classification",
        data=Data(source="a:b"),
        net=Net(source="a:b"),
        optimizer=config,
    )
    torch.manual_seed(0)
    net = nn.Linear(8, 4)
    optimizer = build.build_optimizer(recipe, net)
    for _ in range(5):
        net(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return net.weight.detach(), optimizer


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_is_fused_and_moves_the_weights_as_the_unfused_one(name: str) -> None:
    weight, fused = train(Optimizer(name=name, lr=0.1))
    expected, unfused = train(Optimizer(name=name, lr=0.1, args={"fused": False}))

    assert fused.param_groups[0]["fused"]
    assert not unfused.param_groups[0]["fused"]
    torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("args", [{"foreach": True}, {"differentiable": False}])
def test_a_recipe_that_chooses_another_implementation_gets_it(args: dict[str, bool]) -> None:
    _, optimizer = train(Optimizer(name="AdamW", args=args))

    assert not optimizer.param_groups[0]["fused"]

import pytest
import torch
from torch import nn

from training.recipe.spec import Data, Net, Optimizer, Recipe
from training.worker import build


def after_steps(optimiser: Optimizer) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    recipe = Recipe(
        name="x",
        task="tabular-classification",
        data=Data(source="a:b"),
        net=Net(source="a:b"),
        optimizer=optimiser,
    )
    torch.manual_seed(0)
    net = nn.Linear(8, 4)
    made = build.build_optimizer(recipe, net)
    for _ in range(5):
        net(torch.randn(16, 8)).square().mean().backward()
        made.step()
        made.zero_grad()
    return net.weight.detach(), made


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_is_fused_and_moves_the_weights_as_the_plain_one(name: str) -> None:
    weight, fused = after_steps(Optimizer(name=name, lr=0.1))
    expected, plain = after_steps(Optimizer(name=name, lr=0.1, args={"fused": False}))

    assert fused.param_groups[0]["fused"]
    assert not plain.param_groups[0]["fused"]
    torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("chosen", [{"foreach": True}, {"differentiable": False}])
def test_a_recipe_that_chooses_another_arithmetic_gets_it(chosen: dict[str, bool]) -> None:
    _, made = after_steps(Optimizer(name="AdamW", args=chosen))

    assert not made.param_groups[0]["fused"]

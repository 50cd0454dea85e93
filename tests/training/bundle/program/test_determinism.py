"""Nets that answer equal rows differently are refused, when they are saved and when a bundle of one is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.small_bundles import TWO_FEATURES as INFO
from tests.training.bundle.program.archives import MODEL, change_json, save_program
from training.bundle.exported_program import export_program, load_program
from training.bundle.program.arguments import ProgramChangedError
from training.bundle.program.interpreter import ProgramModule
from training.bundle.program.reader import read_program
from training.bundle.save import save_bundle
from training.errors import BundleError, UserError
from training.schema import ImageInput


class Net(nn.Module):
    """A linear layer, then a function of the net and its output."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(2))
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.linear(x))


def count_calls(net: Any, y: Tensor) -> Tensor:
    net.calls += 1
    return y + net.calls


def replace_buffer(net: Any, y: Tensor) -> Tensor:
    net.calls = torch.maximum(net.calls, y.detach().amax(0))
    return y + net.calls


def write_through_views(net: Any, y: Tensor) -> Tensor:
    net.calls.view(2, 1)[0].mul_(0).add_(y.detach().sum())
    return y + net.calls


def write_in_branch(net: Any, y: Tensor) -> Tensor:
    with torch.no_grad():
        net.linear.weight[0].copy_(y[0])
    return y


def attend(net: Any, y: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None], dropout_p=0.1)[:, 0]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a counter": (lambda: Net(count_calls), "it changes calls when it is called"),
    "a buffer that is replaced": (lambda: Net(replace_buffer), "it changes (its buffer )?calls when it is called"),
    "a buffer written through views": (lambda: Net(write_through_views), "it changes calls when it is called"),
    "a weight": (lambda: Net(write_in_branch), r"it changes linear\.weight when it is called"),
    "dropout left on": (lambda: Net(lambda net, y: F.dropout(y, 0.3)), "dropout drops values at random"),
    "dropout of attention": (lambda: Net(attend), "scaled_dot_product_attention drops values at random"),
    "noise": (lambda: Net(lambda net, y: y + torch.randn_like(y)), r"randn_like\.default draws random numbers"),
    "a draw": (lambda: Net(lambda net, y: y.sigmoid().bernoulli()), r"bernoulli\.default draws random numbers"),
    "batch statistics": (
        lambda: Net(lambda net, y: net.norm(y), norm=nn.BatchNorm1d(2, track_running_stats=False)),
        "batch_norm in norm normalizes by the rows that happen to be in one batch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_net_that_answers_equal_rows_differently_is_not_saved(tmp_path: Path, name: str) -> None:
    build, message = REFUSED[name]

    with pytest.raises(UserError, match=f"the net cannot be served: .*{message}"):
        save_bundle(tmp_path / "b", build(), inputs=torch.ones(2, 2), info=INFO)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_nor_is_its_program_read_from_elsewhere(tmp_path: Path, name: str) -> None:
    build, message = REFUSED[name]
    torch.export.save(export_program(build().eval(), torch.ones(2, 2)), tmp_path / "model.pt2")

    with pytest.raises(BundleError, match=message):
        read_program(tmp_path / "model.pt2")


def test_an_answer_that_depends_on_the_rows_beside_it_is_refused(tmp_path: Path) -> None:
    net = Net(lambda net, y: y - y.mean(0))

    with pytest.raises(UserError, match="the answer to a row depends on the rows beside it"):
        save_bundle(tmp_path / "b", net, inputs=torch.tensor([[1.0, 2.0], [5.0, -3.0]]), info=INFO)


@pytest.mark.parametrize(
    "module", [nn.Dropout(0.5), nn.ReLU(inplace=True), nn.BatchNorm1d(2), nn.RReLU(), nn.AlphaDropout()]
)
def test_layers_that_are_harmless_in_eval_mode_are_saved(tmp_path: Path, module: nn.Module) -> None:
    net, x = Net(lambda net, y: net.layer(y) + 1, layer=module), torch.randn(2, 2)

    save_bundle(tmp_path / "b", net, inputs=x, info=INFO)

    with torch.inference_mode():
        assert torch.equal(load_program(tmp_path / "b" / "model.pt2")(x), net(x))


def test_a_weight_changed_where_the_graph_does_not_show_it_ends_the_answers(tmp_path: Path) -> None:
    """instance_norm writes to its statistics, of which its schema says nothing."""

    def use_input_statistics(document: Any) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            for argument in node["inputs"]:
                if argument["name"] == "use_input_stats":
                    argument["arg"] = {"as_bool": True}

    # One value per channel has no variance.
    changed = Net(
        lambda net, y: net.norm(y[:, :, None].expand(-1, -1, 3))[:, :, 0],
        norm=nn.InstanceNorm1d(2, track_running_stats=True),
    )
    file = save_program(tmp_path, changed)
    change_json(file, MODEL, use_input_statistics)
    net = ProgramModule(read_program(file))

    for _ in range(2):
        with torch.inference_mode(), pytest.raises(ProgramChangedError, match=r"the net changes norm\.running_"):
            net(torch.randn(2, 2))


def write_by(*steps: tuple[str, list[Any]]) -> Callable[[Any], None]:
    """Put calls of operators before a program's own, each on the result of the last, the first on `calls`."""

    def change(document: Any) -> None:
        graph = document["graph_module"]["graph"]
        (name,) = [
            spec["buffer"]["arg"]["name"]
            for spec in document["graph_module"]["signature"]["input_specs"]
            if spec.get("buffer", {}).get("buffer_name") == "calls"
        ]
        nodes = []
        for index, (target, arguments) in enumerate(steps):
            inputs = [{"name": "", "arg": each, "kind": 1} for each in [{"as_tensor": {"name": name}}, *arguments]]
            name = f"hostile_{index}"
            output = [{"as_tensor": {"name": name}}]
            if target.startswith("unsafe_"):
                output = [{"as_tensors": [{"name": name}, {"name": f"other_{index}"}]}]
            nodes.append({"target": f"torch.ops.aten.{target}", "inputs": inputs, "outputs": output, "metadata": {}})
        graph["nodes"][:0] = nodes

    return change


ONE, SIZE_2 = {"as_float": 1.0}, {"as_ints": [2]}


@pytest.mark.parametrize(
    "steps",
    [
        [("_unsafe_view.default", [SIZE_2]), ("add_.Tensor", [ONE])],
        [("unsafe_chunk.default", [{"as_int": 2}]), ("add_.Tensor", [ONE])],
        [("lift_fresh.default", []), ("view.dtype", [{"as_scalar_type": 7}]), ("add_.Tensor", [ONE])],
        [("positive.default", []), ("zero_.default", [])],
        [("conj.default", []), ("mul_.Scalar", [ONE])],
    ],
)
def test_no_view_leads_to_the_memory_of_a_weight(tmp_path: Path, steps: list[tuple[str, list[Any]]]) -> None:
    file = save_program(tmp_path, Net(lambda net, y: y + net.calls))
    change_json(file, MODEL, write_by(*steps))
    x = torch.ones(2, 2)

    with torch.inference_mode(), pytest.raises((ProgramChangedError, BundleError), match="changes calls when it is"):
        ProgramModule(read_program(file))(x)


def test_a_write_that_is_refused_has_changed_nothing(tmp_path: Path) -> None:
    """Though other rows take another branch."""
    file = save_program(tmp_path, Net(lambda net, y: y + net.calls))
    change_json(file, MODEL, write_by(("_unsafe_view.default", [SIZE_2]), ("add_.Tensor", [ONE])))
    net = ProgramModule(read_program(file))

    for _ in range(2):
        with torch.inference_mode(), pytest.raises(ProgramChangedError):
            net(torch.ones(2, 2))
    assert net.get_buffer("calls").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("dropout_.default", [{"as_float": 0.5}, {"as_bool": True}]),
        ("alpha_dropout_.default", [{"as_float": 0.5}, {"as_bool": True}]),
        ("rrelu_.default", [{"as_float": 0.1}, {"as_float": 0.9}, {"as_bool": True}]),
        ("native_dropout.default", [{"as_float": 0.5}, {"as_none": True}]),
    ],
)
def test_dropout_in_place_and_by_default_is_dropout(tmp_path: Path, target: str, arguments: list[Any]) -> None:
    file = save_program(tmp_path, Net(lambda net, y: y.relu()))

    def change(document: Any) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            if "relu" in node["target"]:
                node["target"] = f"torch.ops.aten.{target}"
                node["inputs"] += [{"name": "", "arg": each, "kind": 1} for each in arguments]

    change_json(file, MODEL, change)

    with pytest.raises(BundleError, match="drops values at random"):
        read_program(file)


@dataclass
class Answer:
    logits: Tensor


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda net, y: {"logits": y}, "a dict"),
        (lambda net, y: [y], "a list"),
        (lambda net, y: None, "a NoneType"),
        (lambda net, y: Answer(y), "a Answer"),
        (lambda net, y: (y, None), "a tuple with a NoneType"),
        (lambda net, y: 3.5, "a float"),
    ],
)
def test_a_net_that_returns_no_tensors_is_refused_in_one_line(tmp_path: Path, function: Any, what: str) -> None:
    with pytest.raises(UserError, match=f"^the net returns {what}; return one tensor, or a tuple of tensors$"):
        save_bundle(tmp_path / "b", Net(function), inputs=torch.ones(2, 2), info=INFO)


@pytest.mark.parametrize(
    ("net", "inputs", "message"),
    [
        (lambda x: x, torch.ones(2, 2), "the net is a function; give a torch.nn.Module"),
        (nn.Linear(2, 2), np.ones((2, 2)), "the rows are a ndarray; give a tensor"),
        (nn.Linear(2, 2), torch.ones(1, 2), "at least two"),
        (nn.Linear(2, 2), torch.ones(2), "at least two"),
        (nn.Linear(2, 2), torch.ones(2, 3), "the input schema has 2 features"),
        (nn.Linear(3, 2), torch.ones(2, 2), "the net fails for torch.float32 rows"),
        (Net(lambda net, y: (y, y)), torch.ones(2, 2), "the net returns 2 tensors, 1 names are given"),
    ],
)
def test_what_cannot_be_saved_is_refused_in_one_line(tmp_path: Path, net: Any, inputs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        save_bundle(tmp_path / "b", net, inputs=inputs, info=INFO)
    assert "\n" not in str(raised.value)


def test_images_are_saved_as_the_bytes_that_callers_send(tmp_path: Path) -> None:
    info = INFO.model_copy(
        update={"task": "image-classification", "input_schema": ImageInput(height=2, width=2, mode="L")}
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    with pytest.raises(UserError, match=r"images are sent as torch\.uint8, 0 to 255"):
        save_bundle(tmp_path / "b", net, inputs=torch.rand(2, 1, 2, 2), info=info)

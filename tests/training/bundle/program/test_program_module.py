"""What a loaded program does besides computing: input checks, readers of weights, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.small_bundles import TWO_FEATURES as INFO
from tests.training.bundle.program.archives import MODEL, change_json, read_members, save_program
from tests.training.bundle.program.unusual_nets import Branch, TiedWeights
from training.bundle.exported_program import export_program, load_program
from training.bundle.program.reader import read_program, read_tree
from training.bundle.save import save_bundle
from training.errors import BundleError, UserError


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, x_BT: Tensor) -> Tensor:
        return self.table(x_BT).sum(1)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 1), (0, 2)])
def test_an_input_of_another_shape_is_refused_with_both_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    net = load_program(save_program(tmp_path))

    with pytest.raises(UserError, match=r"the input has shape \(.*\); the net takes \(s\d+: 1 to any, 2\)"):
        net(torch.zeros(shape))


def test_the_bounds_of_a_dynamic_time_dimension_are_checked(tmp_path: Path) -> None:
    program = export_program(Embedded().eval(), torch.zeros(2, 4, dtype=torch.int64), max_time_steps=6)
    torch.export.save(program, tmp_path / "model.pt2")
    net = load_program(tmp_path / "model.pt2")

    assert net(torch.zeros(3, 6, dtype=torch.int64)).shape == (3, 3)
    for time_steps in (1, 7):
        with pytest.raises(UserError, match=r"the net takes \(s\d+: 1 to any, s\d+: 2 to 6\)"):
            net(torch.zeros(3, time_steps, dtype=torch.int64))


def test_without_its_checks_it_computes_the_same(tmp_path: Path) -> None:
    net = load_program(save_program(tmp_path))
    x = torch.randn(4, 2)
    expected = net(x)

    net.disable_input_checks()

    assert torch.equal(net(x), expected)
    with pytest.raises(RuntimeError):
        net(torch.zeros(3, 4))


def test_operators_and_readers_of_weights_are_known_by_name(tmp_path: Path) -> None:
    program = export_program(TiedWeights().eval(), torch.zeros(2, 4, dtype=torch.int64))
    torch.export.save(program, tmp_path / "tied.pt2")
    tied = load_program(tmp_path / "tied.pt2")
    torch.export.save(export_program(Branch().eval(), torch.zeros(2, 4)), tmp_path / "branch.pt2")
    branch = load_program(tmp_path / "branch.pt2")

    assert {"embedding", "linear"} <= tied.operators
    assert set().union(*tied.readers.values()) == {"embedding", "linear"}
    assert {"linear", "sin", "clone"} <= branch.operators
    # A branch reads them, whatever it does with them.
    assert branch.readers == {"linear.weight": {""}, "linear.bias": {""}}


def test_a_program_can_be_exported_again(tmp_path: Path) -> None:
    net = load_program(save_program(tmp_path))
    x = torch.randn(5, 2)

    program = export_program(net, x[:2])

    assert torch.equal(program.module()(x), net(x))


def insert(document: Any, target: str, arguments: list[Any]) -> None:
    inputs = [{"name": "", "arg": argument, "kind": 1} for argument in arguments]
    node = {"target": target, "inputs": inputs, "outputs": [], "metadata": {}}
    document["graph_module"]["graph"]["nodes"].insert(0, node)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("torch.os.system", [{"as_string": "true"}], r"torch\.os\.system is none of the operators"),
        ("torch.ops.aten.from_file.default", [{"as_string": "/etc/passwd"}], "reads or writes a file"),
        ("torch.ops.aten.relu.default", [{"as_tensor": {"name": "later"}}], "later is used before it is computed"),
        ("torch.ops.aten.relu.default", [{"as_operator": "torch.os.system"}], "unknown field `as_operator`"),
        ("torch.ops.aten.relu.default", [{"as_custom_obj": {"name": "x", "class_fqn": "y"}}], "unknown field"),
        ("torch.ops.aten.relu.default", [{"as_int": 1, "as_none": True}], "exactly one kind of value is expected"),
        ("torch.ops.aten.relu.default", [{}], "exactly one kind of value is expected"),
        ("torch.ops.aten.relu.default", [{"as_int": 2**80}], "Expected `int` <= 9223372036854775807"),
        ("torch.ops.aten.relu.default", [{"as_layout": 2}], "Invalid enum value 2"),
        ("torch.ops.aten.relu.default", [{"as_device": {"type": "meta", "index": None}}], "Invalid enum value 'meta'"),
        ("torch.ops.aten.no_such.default", [], "none of the operators"),
        ("torch.ops.higher_order.cond", [{"as_bool": True}], "does not say whether|has no graph"),
    ],
)
def test_a_node_that_is_not_understood_is_refused(
    tmp_path: Path, target: str, arguments: list[Any], message: str
) -> None:
    file = save_program(tmp_path)
    change_json(file, MODEL, lambda document: insert(document, target, arguments))

    with pytest.raises(BundleError, match=message):
        read_program(file)


def test_an_overload_that_the_installed_torch_lacks_is_refused(tmp_path: Path) -> None:
    file = save_program(tmp_path)
    change_json(file, MODEL, lambda document: insert(document, "torch.ops.aten.relu.newer", []))

    with pytest.raises(BundleError, match=rf"model\.pt2 does not fit torch {torch.__version__[:4]}"):
        load_program(file)


@pytest.mark.parametrize("name", ["forward", "training", "_plan", "__class__", "_parameters"])
def test_a_weight_with_the_name_of_a_method_is_refused(tmp_path: Path, name: str) -> None:
    file = save_program(tmp_path)
    text = {key: content.replace(b'"weight"', f'"{name}"'.encode()) for key, content in read_members(file).items()}
    for member, content in text.items():
        if member.endswith(".json"):
            changed = json.loads(content)
            change_json(file, member, lambda document, changed=changed: (document.clear(), document.update(changed)))

    with pytest.raises(BundleError, match=r"model\.pt2"):
        load_program(file)


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "collections.OrderedDict", "context": '["a"]', "children_spec": []},
        {"type": "builtins.dict", "context": '["a"]', "children_spec": []},
        {"type": "builtins.dict", "context": "__import__('os')", "children_spec": []},
        {"type": "builtins.tuple", "context": "x", "children_spec": []},
        {"type": "builtins.eval", "context": "null", "children_spec": []},
        {"type": None, "context": "x", "children_spec": []},
    ],
)
def test_outputs_in_anything_but_tuples_lists_and_dicts_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"outputs are arranged|Invalid enum|malformed|Expected"):
        read_tree(json.dumps([1, tree]))


class Unwritten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.empty_strided((x.shape[0], 2), (2, 1)).zero_()


class Expanded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(1).expand(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ones


# torch's own, of a weight that is smaller than its storage.
@pytest.mark.filterwarnings("ignore:No complete tensor found")
@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            Unwritten,
            r"empty_strided\.default returns memory that nothing has written; use torch\.zeros; change the net",
        ),
        (Expanded, r"ones of shape \(2,\), strides \(0,\) .* give the net contiguous tensors; change the net"),
    ],
)
def test_a_net_that_the_reader_does_not_read_is_refused_when_it_is_saved(
    tmp_path: Path, net: type[nn.Module], message: str
) -> None:
    with pytest.raises(UserError, match=f"the net cannot be served: .*{message}"):
        save_bundle(tmp_path / "b", net(), inputs=torch.ones(2, 2), info=INFO)
    assert not (tmp_path / "b").exists()


def test_a_program_that_computes_something_else_is_refused_when_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    file = save_program(other, nn.Linear(2, 2))
    monkeypatch.setattr(torch.export, "save", lambda program, path: Path(path).write_bytes(file.read_bytes()))

    with pytest.raises(UserError, match="read again, it computes something else"):
        save_bundle(tmp_path / "b", nn.Linear(2, 2), inputs=torch.ones(2, 2), info=INFO)

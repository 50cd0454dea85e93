"""A program that Shoal's reader runs computes, bit for bit, what torch's own loader computes."""

import copy
import io
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.training.bundle.program.unusual_nets import UNUSUAL_NETS
from training.bundle.exported_program import export_program, load_program
from training.bundle.program.interpreter import ProgramModule
from training.zoo.nets.bag_of_ngrams import bag_of_ngrams
from training.zoo.nets.cnn import cnn
from training.zoo.nets.detector import Detector
from training.zoo.nets.forecaster import forecaster
from training.zoo.nets.gpt import gpt
from training.zoo.nets.language_lstm import language_lstm
from training.zoo.nets.mlp import mlp
from training.zoo.nets.recurrent import rnn_series_classifier, rnn_text_classifier
from training.zoo.nets.resnet import resnet
from training.zoo.nets.tagger import tagger
from training.zoo.nets.transformer import transformer_classifier
from training.zoo.nets.vae import VAE


def _images() -> Tensor:
    return torch.rand(3, 1, 16, 16)


def _tokens() -> Tensor:
    return torch.randint(1, 50, (3, 9))


def _series() -> Tensor:
    return torch.randn(3, 15, 2)


ZOO_NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int | None]] = {
    "mlp": (lambda: mlp(4, [8], 3), lambda: torch.randn(3, 4), None),
    "cnn": (lambda: cnn(1, 3), lambda: torch.rand(3, 1, 28, 28), None),
    "resnet": (lambda: resnet(1, 3, 4), _images, None),
    "detector": (lambda: Detector(1, 3, 4), _images, None),
    "vae": (lambda: VAE(1, 16, 16, 4, 8), _images, None),
    "bag of ngrams": (lambda: bag_of_ngrams(50, 2, embedding_dim=4, num_buckets=16), _tokens, 20),
    "text lstm": (lambda: rnn_text_classifier(50, 2, "lstm", 8, 4, 2), _tokens, 20),
    "text rnn": (lambda: rnn_text_classifier(50, 2, "rnn", 8, 4), _tokens, 20),
    "series gru": (lambda: rnn_series_classifier(2, 3, "gru", 4), _series, 20),
    "forecaster": (lambda: forecaster(2), _series, 20),
    "language lstm": (lambda: language_lstm(50, 8, embedding_dim=4), _tokens, 20),
    "gpt": (lambda: gpt(50, 20, 8, 2, 2), _tokens, 20),
    "tagger": (lambda: tagger(50, 3, 8, hidden_size=4), _tokens, 20),
    "transformer": (lambda: transformer_classifier(50, 2, 8, 2, num_buckets=16), _tokens, 20),
}
NETS = ZOO_NETS | UNUSUAL_NETS


@cache
def export(name: str) -> bytes:
    build, make_rows, max_time_steps = NETS[name]
    torch.manual_seed(0)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch's own, of a transposed weight that is on the CPU.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(export_program(build().eval(), make_rows(), max_time_steps), buffer)
    return buffer.getvalue()


def load_both(name: str, folder: Path) -> tuple[ProgramModule, nn.Module, Tensor]:
    """Export a net and load it with both loaders; the rows are others than those that it was exported with."""
    _, make_rows, max_time_steps = NETS[name]
    (folder / "model.pt2").write_bytes(export(name))
    ours, theirs = load_program(folder / "model.pt2"), torch.export.load(folder / "model.pt2").module()
    rows = torch.cat([make_rows(), make_rows()])
    return ours, theirs, rows[:, :7] if max_time_steps and name in ZOO_NETS and rows.ndim == 2 else rows


def run(net: nn.Module, x: Tensor) -> tuple[list[Any], Any]:
    torch.manual_seed(1)
    return pytree.tree_flatten(net(x.clone()))


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_torchs_loader_bit_for_bit(name: str, tmp_path: Path) -> None:
    ours, theirs, x = load_both(name, tmp_path)

    for rows in (x, x[:1]):
        with torch.inference_mode():
            (outputs, tree), (expected, expected_tree) = run(ours, rows), run(theirs, rows)
        assert tree == expected_tree
        for y, reference in zip(outputs, expected, strict=True):
            if isinstance(reference, Tensor):
                assert (y.dtype, y.shape, y.stride()) == (reference.dtype, reference.shape, reference.stride())
                assert torch.equal(y.nan_to_num(), reference.nan_to_num())
                assert torch.equal(y.isnan(), reference.isnan())
            else:
                assert y == reference


@pytest.mark.parametrize("name", NETS)
def test_weights_are_those_of_torchs_loader(name: str, tmp_path: Path) -> None:
    ours, theirs, _ = load_both(name, tmp_path)

    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)
    parameters, expected_parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert list(parameters) == list(expected_parameters)
    assert all(parameters[name].requires_grad == expected_parameters[name].requires_grad for name in parameters)
    assert all(value.is_contiguous() == expected[name].is_contiguous() for name, value in state.items())


def test_tensors_that_shared_memory_share_it_again(tmp_path: Path) -> None:
    ours, _, _ = load_both("shared storage", tmp_path)

    rows, block = ours.get_buffer("rows"), ours.get_buffer("block")
    assert rows.untyped_storage().data_ptr() == block.untyped_storage().data_ptr()


def test_a_copy_has_weights_of_its_own(tmp_path: Path) -> None:
    ours, _, x = load_both("mlp", tmp_path)
    expected = ours(x)

    clone = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()

    assert torch.equal(clone(x), expected)
    assert not torch.equal(ours(x), expected)


def test_a_module_moves_with_its_buffers(tmp_path: Path) -> None:
    ours, _, x = load_both("cnn", tmp_path)

    double = ours.to(torch.float64)

    assert double(x.double()).dtype == torch.float64


@pytest.mark.parametrize("name", ["buffers", "sizes", "lstm", "attention", "bag of ngrams"])
def test_weights_and_new_tensors_are_on_the_device_that_it_is_loaded_for(name: str, tmp_path: Path) -> None:
    _, make_rows, _ = NETS[name]
    (tmp_path / "model.pt2").write_bytes(export(name))
    net = load_program(tmp_path / "model.pt2", "meta")

    with torch.inference_mode():
        output = net(make_rows().to("meta"))

    assert {tensor.device.type for tensor in (output, *net.parameters(), *net.buffers())} == {"meta"}


def test_what_nothing_reads_any_more_is_released_during_the_call(tmp_path: Path) -> None:
    ours, _, x = load_both("mlp", tmp_path)

    values = ours._plan.initial_values.copy()
    values[ours._input_index] = x
    for i, module, name in ours._weights:
        values[i] = getattr(module, name)
    ours._plan.run(values)

    assert sum(isinstance(value, Tensor) for value in values) == 1 + len(list(ours.parameters())) + 1

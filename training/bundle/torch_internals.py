"""Private names of torch that exporting a net needs, checked against torch 2.13.0.

| private name | used for | what torch lacks in public |
|---|---|---|
| `torch._C.DispatchKey`, `OpOverload.py_kernels`, `OpOverload._dispatch_cache` | keep nn.LSTM, nn.GRU and nn.RNN as \
one operator | `torch.export.export` takes no table of operators to keep, and decomposes these while it traces |
| `torch._C._dispatch_has_kernel`, `OpOverload._schema` | tell tensor operators from those of TorchScript, and check \
arguments against their kinds | public names of both |
| text of the `_flat_weights` warning | silence it | a category for it |

The layout of a saved program is private too; `program/archive.py` and `program/document.py` have it, since they must
not import torch.

With another torch: where a name is missing, `keep_recurrent_ops` refuses the export of a recurrent net and gives both
versions; where a name means something else, torch.export refuses the dynamic time dimension. None of this runs
when a program is loaded or called. A test fails when the installed torch is not TORCH_VERSION.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import UserError

TORCH_VERSION = "2.13.0"


@contextmanager
def keep_recurrent_ops(net: nn.Module) -> Iterator[None]:
    """Keep nn.LSTM, nn.GRU and nn.RNN as one operator each while a net is exported.

    torch.export would decompose them time step by time step, and the program would take the example's length only.

    Raises:
        UserError: the net is recurrent and this torch lacks a private name that is needed.
    """
    try:
        operators, key = _find_operators()
    except AttributeError as error:
        if any(isinstance(module, nn.RNNBase) for module in net.modules()):
            raise UserError(
                f"a recurrent net cannot be exported with torch {torch.__version__} ({error}); "
                f"install torch {TORCH_VERSION}"
            ) from error
        yield
        return
    kernels = [operator.py_kernels.get(key) for operator in operators]
    for operator in operators:
        operator.py_kernels[key] = _recurrent_meta_kernel
        operator._dispatch_cache.clear()
    try:
        with warnings.catch_warnings():
            # A recurrent module keeps its weights in a list as well, which export does not change.
            warnings.filterwarnings("ignore", message=".*_flat_weights.* were assigned during export", module=".*")
            yield
    finally:
        for operator, kernel in zip(operators, kernels, strict=True):
            if kernel is None:
                operator.py_kernels.pop(key)
            else:
                operator.py_kernels[key] = kernel
            operator._dispatch_cache.clear()


def is_dispatched(operator: Any) -> bool:
    """Whether an overload of torch.ops.aten computes with tensors; others are of TorchScript's integers and lists."""
    schema = operator._schema
    name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
    return bool(torch._C._dispatch_has_kernel(name))


def _find_operators() -> tuple[list[Any], Any]:
    """The recurrent operators, and the dispatch key under which torch.export decomposes them.

    Raises:
        AttributeError: this torch lacks one of the private names.
    """
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    operators = [getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")]
    for operator in operators:
        operator.py_kernels.get(key)
        operator._dispatch_cache.clear()
    return operators, key


def _recurrent_meta_kernel(
    x: Tensor, states: Any, weights: Any, has_biases: bool, num_layers: int, *rest: Any
) -> tuple[Any, ...]:
    """Compute a recurrent operator's outputs in shape alone, which is all that export needs.

    Arguments are those of aten's schema: x (B, T, F), states h or (h, c) of shape (layers, B, H), and in `rest`
    dropout, train, bidirectional and batch_first.
    """
    bidirectional, batch_first = rest[-2], rest[-1]
    if not batch_first:
        raise ValueError("the first dimension must be the batch; set batch_first=True")
    states = states if isinstance(states, list | tuple) else [states]
    hidden_size = states[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty(x.shape[0], x.shape[1], hidden_size), *(state.clone() for state in states)

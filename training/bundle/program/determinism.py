"""Determinism: refuses programs whose answer to a row depends on chance, on other rows or on earlier calls.

Deploy walk: reader.py -> [determinism.py] -> operators.py
Imports no torch. Finds what can be seen in the graph; arguments.py refuses every write to the memory of a weight.
"""

import re

from training.bundle.program.graph import Graph, Node, Operand, ValueReference
from training.bundle.program.operators import ATEN, CONTROL_FLOW, HIGHER_ORDER

# Which argument is the share of values that are dropped, and which switches it on.
_DROPOUT: dict[str, tuple[tuple[str, int] | None, tuple[str, int] | None]] = {
    "dropout": (("p", 1), ("train", 2)),
    "alpha_dropout": (("p", 1), ("train", 2)),
    "feature_dropout": (("p", 1), ("train", 2)),
    "feature_alpha_dropout": (("p", 1), ("train", 2)),
    "native_dropout": (("p", 1), ("train", 2)),
    "rrelu": (None, ("training", 3)),
    "scaled_dot_product_attention": (("dropout_p", 4), None),
    "lstm": (("dropout", 5), ("train", 6)),
    "gru": (("dropout", 5), ("train", 6)),
    "rnn_tanh": (("dropout", 5), ("train", 6)),
    "rnn_relu": (("dropout", 5), ("train", 6)),
}
_VIEWS = """
    adjoint alias chunk contiguous detach diagonal dsplit expand expand_as flatten hsplit mH mT matrix_H moveaxis
    movedim narrow numpy_T permute ravel real imag reshape reshape_as select slice split split_with_sizes squeeze
    swapaxes swapdims t tensor_split to transpose type_as unbind unflatten unfold unsqueeze view view_as
    view_as_complex view_as_real vsplit dropout broadcast_to atleast_1d atleast_2d atleast_3d resolve_conj resolve_neg
"""
_VIEW_OPERATORS = frozenset(_VIEWS.split())
_IN_PLACE = re.compile(r"[A-Za-z]\w*_|__i\w+__")
_REMEDY = "rows that are equal must get equal answers"


def check_determinism(graph: Graph, weights: dict[str, str]) -> None:
    """Check a graph.

    Args:
        graph: a checked one.
        weights: names in the net of the graph's inputs that are weights or buffers.

    Raises:
        ValueError: it draws random numbers, normalizes by the rows of the batch, or writes to a weight; the message
            names the layer or the buffer.
    """
    # Values that share memory with a weight.
    views = dict(weights)
    for node in graph.nodes:
        if node.target.startswith(HIGHER_ORDER):
            _check_inner_graphs(node, views)
        elif node.target.startswith(ATEN):
            _check_node(node, views)


def _check_inner_graphs(node: Node, views: dict[str, str]) -> None:
    positions = CONTROL_FLOW[node.target.removeprefix(HIGHER_ORDER)]
    operands: list[Operand] = []
    for operand in node.args[max(positions) + 1 :]:
        operands += operand if type(operand) is tuple else [operand]
    for position in positions:
        inner = node.args[position]
        assert isinstance(inner, Graph)
        shared = {
            name: views[operand.name]
            for name, operand in zip(inner.inputs, operands, strict=False)
            if isinstance(operand, ValueReference) and operand.name in views
        }
        check_determinism(inner, shared)


def _check_node(node: Node, views: dict[str, str]) -> None:
    name = node.target.removeprefix(ATEN).partition(".")[0]
    # An operator in place does the same.
    function = name if name in _DROPOUT else name.removesuffix("_")
    layer = f" in {node.module}" if node.module else ""
    if function in _DROPOUT:
        share, switch = (None if where is None else _get_argument(node, *where) for where in _DROPOUT[function])
        has_share = _DROPOUT[function][0] is None or share not in (None, 0, 0.0)
        # Of native_dropout, None means on.
        is_off = switch is False or (switch is None and function != "native_dropout")
        if has_share and (_DROPOUT[function][1] is None or not is_off):
            raise ValueError(
                f"{name}{layer} drops values at random; call it with the module's own mode, "
                f"as F.dropout(x, p, self.training): {_REMEDY}"
            )
    if function == "batch_norm" and _get_argument(node, "training", 5) is not False:
        raise ValueError(
            f"{name}{layer} normalizes by the rows that happen to be in one batch; "
            f"give it running statistics: {_REMEDY}"
        )
    base = _get_argument(node, "self", 0)
    state = views.get(base.name) if isinstance(base, ValueReference) else None
    if state is None:
        return
    if _IN_PLACE.fullmatch(name):
        raise ValueError(f"it changes {state} when it is called{',' if layer else ''}{layer}: {_REMEDY}")
    if name in _VIEW_OPERATORS:
        views.update(dict.fromkeys(_list_names(node.result), state))


def _get_argument(node: Node, name: str, position: int) -> Operand:
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[position] if position < len(node.args) else None


def _list_names(result: object) -> list[str]:
    if isinstance(result, str):
        return [result]
    return [name for each in result for name in _list_names(each)] if isinstance(result, tuple) else []

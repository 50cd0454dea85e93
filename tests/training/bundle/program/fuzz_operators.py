"""Fuzz: calls every operator that a program may call with odd arguments, in child processes; prints those that end one.

    python tests/training/bundle/program/fuzz_operators.py [CALLS [NAME ...]]

Run by test_arguments.py with `make soak`.
"""

import os
import random
import resource
import signal
import sys
from typing import Any

import torch

from training.bundle.program.arguments import check_arguments, guard_call
from training.bundle.program.graph import Node, Operand, TargetDevice, TorchConstant, ValueReference
from training.bundle.program.operators import ATEN, check_target
from training.bundle.torch_internals import is_dispatched

SECONDS_PER_CALL, MEMORY_BYTES = 3, 9 * 2**30
INTEGERS = [0, 1, 1, 2, 2, 3, -1, -2, 4, 5, 7, 100, 2**16, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**62), 2**63 - 1]
FLOATS = [0.0, 1.0, 0.5, 2.0, -1.0, 1e-30, -1e-30, 1e30, float("inf"), -float("inf"), float("nan"), 2.0**53]
VALUES = [[0, 1, 2, 3], [-1, 0, 1, 5, 100], [2**31, -(2**31), 2**62, -1], [0, 1], [-1]]
DTYPES = [torch.float32] * 6 + [torch.int64] * 4
DTYPES += [torch.bool, torch.uint8, torch.int32, torch.int8, torch.float64, torch.bfloat16, torch.complex64]
TEXTS = [
    "mean",
    "sum",
    "amax",
    "reflect",
    "circular",
    "ij",
    "nuc",
    "fro",
    "ortho",
    "floor",
    "trunc",
    "valid",
    "same",
    "",
]


def draw_tensor(rng: random.Random) -> torch.Tensor:
    dims = rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5])
    # Half of all shapes fit one another.
    shape = [2] * dims if rng.random() < 0.5 else [rng.choice([0, 1, 1, 2, 3, 4]) for _ in range(dims)]
    dtype, values = rng.choice(DTYPES), rng.choice(VALUES)
    count = torch.Size(shape).numel()
    tensor = torch.tensor([rng.choice(values) for _ in range(count)], dtype=torch.int64).reshape(shape).to(dtype)
    if not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool and count and rng.random() < 0.2:
        tensor.fill_(rng.choice([torch.iinfo(dtype).min, torch.iinfo(dtype).max]))
    if dtype.is_floating_point and count and rng.random() < 0.3:
        tensor.reshape(-1)[0] = rng.choice(FLOATS)
    if tensor.dim() > 1 and rng.random() < 0.3:
        tensor = tensor.transpose(0, 1)
    if tensor.dim() and rng.random() < 0.2:
        tensor = tensor[..., ::2]
    return tensor.expand(3, *tensor.shape) if rng.random() < 0.1 else tensor


def draw_value(rng: random.Random, kind: str, length: int | None) -> Any:
    if kind.startswith("Optional["):
        return None if rng.random() < 0.4 else draw_value(rng, kind[9:-1], length)
    if kind.startswith("List["):
        count = length if length and rng.random() < 0.8 else rng.choice([0, 1, 1, 2, 2, 3, 4, 6])
        return [draw_value(rng, kind[5:-1], None) for _ in range(count)]
    choices: dict[str, Any] = {
        "int": INTEGERS[:10] if rng.random() < 0.75 else INTEGERS,
        "bool": [True, False],
        "float": FLOATS,
        "number": FLOATS + INTEGERS,
        "complex": FLOATS,
        "ScalarType": DTYPES,
        "MemoryFormat": [torch.contiguous_format, torch.channels_last, torch.preserve_format],
        "Layout": [torch.strided],
        "Device": [torch.device("cpu")],
        "Generator": [None],
        "str": TEXTS,
    }
    return draw_tensor(rng) if kind == "Tensor" else rng.choice(choices[kind])


def to_operand(value: Any) -> Operand:
    if isinstance(value, torch.Tensor):
        return ValueReference("x")
    if isinstance(value, list):
        return tuple(map(to_operand, value))
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return TorchConstant(str(value).removeprefix("torch."))
    return TargetDevice() if isinstance(value, torch.device) else value


def call_oddly(operator: Any, target: str, seed: int) -> None:
    """Call an operator as a program would, if the checks let it."""
    rng = random.Random(seed)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in operator._schema.arguments:
        if argument.kwarg_only and argument.has_default_value() and rng.random() < 0.7:
            continue
        value = draw_value(rng, str(argument.real_type), argument.N)
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    call_as_program(operator, target, args, kwargs)


def call_as_program(operator: Any, target: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call an operator with the checks that a program's call passes."""
    count = len(operator._schema.returns)
    result: Any = tuple(f"y{i}" for i in range(count)) if count > 1 else ("y" if count else None)
    keywords = {key: to_operand(value) for key, value in kwargs.items()}
    node = Node(target, tuple(map(to_operand, args)), keywords, result, "")
    check_arguments(operator, node)
    with torch.inference_mode():
        return guard_call(operator, node)(*args, **kwargs)


def run_child(operator: Any, target: str, first_seed: int, calls: int, progress: int) -> None:
    """In a child process: report each call before it is made."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for seed in range(first_seed, calls):
        os.write(progress, b"%d\n" % seed)
        # A call of sheer size takes long, which is no fault.
        signal.alarm(SECONDS_PER_CALL)
        try:
            call_oddly(operator, target, seed)
        except Exception:
            continue


def find_faults(operator: Any, target: str, calls: int) -> list[tuple[int, int]]:
    """Seeds of the calls that end a process, and the signals that did."""
    faults, seed = [], 0
    while seed < calls and len(faults) < 3:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read_end)
                run_child(operator, target, seed, calls, write_end)
            finally:
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as stream:
            lines = stream.read().split()
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status) or not lines:
            break
        seed = int(lines[-1]) + 1
        if os.WTERMSIG(status) not in (signal.SIGALRM, signal.SIGKILL):
            faults.append((seed - 1, os.WTERMSIG(status)))
    return faults


def main() -> int:
    torch.set_num_threads(1)
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    only, tried, faulty = sys.argv[2:], 0, 0
    for schema in torch._C._jit_get_all_schemas():
        name = schema.name.removeprefix("aten::")
        target = f"{ATEN}{name}.{schema.overload_name or 'default'}"
        try:
            check_target(target)
            operator: Any = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
        except (ValueError, AttributeError):
            continue
        if (only and name not in only) or not is_dispatched(operator):
            continue
        tried += 1
        faults = find_faults(operator, target, calls)
        if faults:
            faulty += 1
            print(target, faults, flush=True)
    print(f"{tried} operators, {calls} calls each: {faulty} end a process")
    return min(faulty, 1)


if __name__ == "__main__":
    sys.exit(main())

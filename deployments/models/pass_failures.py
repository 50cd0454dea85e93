"""Failures of a forward pass: whose fault one is, so that a caller is told to change only what the caller can change.

Request walk: batching.py -> [pass_failures.py]
A net that fails for its bundle's own example too, or whose device fails, is the service's fault (5xx). Serve replaces
the replica, since `Batcher.check_health` then fails as well.
"""

from collections.abc import Callable

import torch

from deployments.errors import CallError, DeviceFailed, InferenceFailed, ModelFailed, Unavailable

# torch raises RuntimeError for them, as for much else.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_DEVICE_ERRORS = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "HIP error", "NCCL error")


def is_device_error(error: BaseException) -> bool:
    """Whether the device failed, which no other rows would change."""
    return isinstance(error, torch.AcceleratorError) or any(text in str(error) for text in _DEVICE_ERRORS)


def describe_failure(error: BaseException, run_example: Callable[[], object]) -> CallError:
    """Make the error that a caller gets for a pass that failed for its rows alone.

    Args:
        error: what the pass raised.
        run_example: a pass of the bundle's example; raises where the net fails for that as well.
    """
    if isinstance(error, CallError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
        return Unavailable("the device has no memory left for this request; send fewer rows, or try again")
    if is_device_error(error):
        return DeviceFailed(f"the model's device failed ({_summarize(error)}); the replica is replaced, try again")
    try:
        run_example()
    except BaseException:  # a net may even raise SystemExit
        return ModelFailed(f"the net fails for every input, its example too: {_summarize(error)}; see the model's log")
    return InferenceFailed(f"the net fails for these rows: {_summarize(error)}; send others")


def check_outputs(outputs: tuple[torch.Tensor, ...], rows: int, expected: int) -> None:
    """Check that a net returned what its bundle declares: as many outputs, with a row for each row.

    Raises:
        ModelFailed: it did not.
    """
    if len(outputs) != expected:
        raise ModelFailed(f"the net returned {len(outputs)} outputs; its bundle declares {expected}; export it again")
    for number, y in enumerate(outputs):
        if y.ndim == 0 or len(y) != rows:
            raise ModelFailed(
                f"output {number} of the net has shape {list(y.shape)} for {rows} rows; the first dimension must be "
                "the rows: export it again"
            )


def _summarize(error: BaseException) -> str:
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__

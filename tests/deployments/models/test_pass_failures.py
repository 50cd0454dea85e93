"""Nets that raise, hang or return too much: every caller gets an error of the right kind, and the batcher goes on."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments.errors import CallError, DeviceFailed, InferenceFailed, ModelFailed, Unavailable
from deployments.models import chunks
from deployments.models.batching import Batcher

GOOD, BAD = np.ones((1, 2), np.float32), np.full((1, 2), -1, np.float32)
TIMEOUT_S = 20.0


class Net(nn.Module):
    """Doubles its rows; does something else where they hold -1, or for all rows once it is broken."""

    def __init__(self, fail: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fail, self.is_broken, self.passes = fail, False, list[Any]()

    def forward(self, x: Tensor) -> Any:
        self.passes.append(x[:, 0].tolist())
        return self.fail(x) if self.is_broken or (x == -1).any() else x * 2


def throw(error: BaseException) -> Callable[[Tensor], Any]:
    def fail(x: Tensor) -> Any:
        raise error

    return fail


def make_batcher(net: Net, inline: bool) -> Batcher:
    batcher = Batcher(net, "cpu", 8, None, (False,))
    batcher.warm_up(GOOD)
    batcher._inline = inline
    return batcher


async def call_all(batcher: Batcher, *requests: Any) -> list[Any]:
    calls = (batcher.forward(rows) for rows in requests)
    async with asyncio.timeout(TIMEOUT_S):
        return await asyncio.gather(*calls, return_exceptions=True)


INLINE = pytest.mark.parametrize("inline", [True, False], ids=["inline", "thread"])
FAULTS: dict[str, tuple[Callable[[Tensor], Any], type[CallError], type[CallError]]] = {
    "an error": (throw(ValueError("no such token")), InferenceFailed, ModelFailed),
    "an error without a word": (throw(AssertionError()), InferenceFailed, ModelFailed),
    "the end of the process": (throw(SystemExit(1)), InferenceFailed, ModelFailed),
    "an interruption": (throw(KeyboardInterrupt()), InferenceFailed, ModelFailed),
    "no memory": (throw(MemoryError()), Unavailable, Unavailable),
    "no memory of the device": (throw(torch.OutOfMemoryError("CUDA out of memory.")), Unavailable, Unavailable),
    "no memory of torch": (
        throw(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")),
        Unavailable,
        Unavailable,
    ),
    "a device error": (
        throw(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")),
        DeviceFailed,
        DeviceFailed,
    ),
    "a library of the device": (
        throw(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")),
        DeviceFailed,
        DeviceFailed,
    ),
    "an output too many": (lambda x: (x, x), ModelFailed, ModelFailed),
    "no output": (lambda x: (), ModelFailed, ModelFailed),
    "too few rows": (lambda x: x[:0], ModelFailed, ModelFailed),
    "a number": (lambda x: x.sum(), ModelFailed, ModelFailed),
    "no tensor": (lambda x: None, InferenceFailed, ModelFailed),
}


@INLINE
@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_fail_harm_no_others_and_the_batcher_works_on(fault: str, inline: bool) -> None:
    fail, error_type, _ = FAULTS[fault]
    net = Net(fail)
    batcher = make_batcher(net, inline)

    async def run() -> None:
        for _ in range(2):
            good, bad, other = await call_all(batcher, GOOD, BAD, GOOD * 3)
            assert type(bad) is error_type
            if error_type is not DeviceFailed:  # after which all rows of the pass are lost
                assert np.array_equal(good[0], GOOD * 2)
                assert np.array_equal(other[0], GOOD * 6)
        (good,) = await call_all(batcher, GOOD)
        assert np.array_equal(good[0], GOOD * 2)

    asyncio.run(run())


@INLINE
@pytest.mark.parametrize("fault", FAULTS)
def test_a_net_that_fails_for_all_rows_is_the_services_fault_and_unhealthy(fault: str, inline: bool) -> None:
    fail, _, error_type = FAULTS[fault]
    net = Net(fail)
    batcher = make_batcher(net, inline)

    async def run() -> None:
        await batcher.check_health(10)
        net.is_broken = True
        for error in await call_all(batcher, GOOD, GOOD):
            assert type(error) is error_type
            assert error.status >= 500
        with pytest.raises(error_type):
            await asyncio.wait_for(batcher.check_health(10), TIMEOUT_S)

    asyncio.run(run())


@INLINE
def test_a_device_that_failed_once_stays_unhealthy(inline: bool) -> None:
    batcher = make_batcher(Net(FAULTS["a device error"][0]), inline)

    async def run() -> None:
        await call_all(batcher, BAD)
        await call_all(batcher, GOOD)
        with pytest.raises(DeviceFailed, match="the replica is replaced"):
            await batcher.check_health(10)

    asyncio.run(run())


def test_a_pass_that_does_not_end_is_unhealthy() -> None:
    may_end = threading.Event()
    batcher = make_batcher(Net(lambda x: may_end.wait(TIMEOUT_S) and x), inline=False)

    async def run() -> None:
        stuck = asyncio.create_task(batcher.forward(BAD))
        await asyncio.sleep(0.3)
        with pytest.raises(ModelFailed, match=r"a forward pass has not ended after 0\.2 s"):
            await batcher.check_health(0.2)
        may_end.set()
        await stuck
        await batcher.check_health(0.2)

    asyncio.run(run())


def test_a_check_needs_no_pass_of_its_own_where_requests_succeed_and_goes_first_where_they_wait() -> None:
    net = Net(lambda x: time.sleep(0.2) or x)
    batcher = make_batcher(net, inline=False)
    batcher._pass_rows = 1

    async def run() -> None:
        await call_all(batcher, GOOD)
        net.passes.clear()
        await batcher.check_health(10)
        assert net.passes == []
        # BAD keeps the net busy while three others wait.
        calls = [asyncio.create_task(batcher.forward(rows)) for rows in (BAD, GOOD * 5, GOOD * 6, GOOD * 7)]
        await asyncio.sleep(0.1)
        await batcher.check_health(10)
        await asyncio.gather(*calls)

    asyncio.run(run())
    assert net.passes == [[-1], [1], [5], [6], [7]]


def test_a_net_that_returns_another_number_of_outputs_than_its_bundle_declares_does_not_start() -> None:
    batcher = Batcher(Net(lambda x: x), "cpu", 8, None, (False, False))

    with pytest.raises(ModelFailed, match="returned 1 outputs; its bundle declares 2"):
        batcher.warm_up(GOOD)


@INLINE
def test_a_callback_that_raises_keeps_no_other_request_of_its_pass_from_its_outputs(
    inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    batcher = make_batcher(Net(lambda x: x), inline)
    results: list[Any] = []

    def fail(result: Any) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        for on_done in (fail, results.append, fail, results.append):
            batcher.submit(GOOD, on_done)
        async with asyncio.timeout(TIMEOUT_S):
            while len(results) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert all(np.array_equal(result[0], GOOD * 2) for result in results)
    assert caplog.text.count("a request's outputs could not be handed over") == 2


def test_outputs_that_cannot_be_put_together_are_that_requests_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError

    batcher = make_batcher(Net(lambda x: x), inline=False)
    batcher._pass_rows = 2
    monkeypatch.setattr(chunks, "_reassemble", fail)

    long, other = asyncio.run(call_all(batcher, np.ones((3, 2), np.float32), GOOD))

    assert isinstance(long, MemoryError)
    assert np.array_equal(other[0], GOOD * 2)

"""Batching: rows of many callers through one net, their order, the size of passes, and the share of padding."""
# Shapes: N rows of a pass, T time steps.

import asyncio
import time
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deployments.errors import InferenceFailed
from deployments.models import pass_timing
from deployments.models.batching import MAX_INLINE_PASS_S, Batcher
from deployments.protocols.arrays import Array
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.zoo.datasets.reviews import reviews

POISON = -1.0


class Double(nn.Module):
    """Doubles each row after a delay; records the rows of each pass; raises for a poisoned row."""

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__()
        self.delay_s, self.passes = delay_s, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        if (x == POISON).any():
            raise ValueError("a poisoned row")
        time.sleep(self.delay_s)
        return x * 2


class DoubleAndSum(nn.Module):
    """Two outputs of rows with a time axis: each time step doubled, and the sum of the row."""

    def forward(self, x_NT: Tensor) -> tuple[Tensor, Tensor]:
        return x_NT[..., None] * 2, x_NT.sum(1, keepdim=True)


def make_batcher(net: nn.Module, *, rows: int = 8, in_thread: bool = False) -> Batcher:
    batcher = Batcher(net, "cpu", rows, None, (False,))
    batcher.warm_up(np.zeros((1, 2), np.float32))
    # The warm-up's choice depends on this machine.
    batcher._inline, batcher._pass_rows = not in_thread, rows
    if isinstance(net, Double):
        net.passes.clear()
    return batcher


def make_rows(caller: int, count: int) -> Array:
    return np.stack([np.array([caller, row], np.float32) for row in range(count)])


@pytest.mark.parametrize("in_thread", [False, True])
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_of_a_thousand_callers_gets_back_its_own_rows_in_their_order(in_thread: bool, seed: int) -> None:
    random = Random(seed)
    sizes = [random.choice([1, 1, 1, 2, 3, 8, 9, 20]) for _ in range(1000)]
    net = Double()
    batcher = make_batcher(net, in_thread=in_thread)

    async def call(caller: int) -> Array:
        await asyncio.sleep(random.random() * 0.02)
        (y,) = await batcher.forward(make_rows(caller, sizes[caller]))
        return y

    async def call_all() -> list[Array]:
        return await asyncio.gather(*map(call, range(1000)))

    for caller, y in enumerate(asyncio.run(call_all())):
        assert np.array_equal(y, make_rows(caller, sizes[caller]) * 2)
    assert sum(net.passes) == sum(sizes)
    assert max(net.passes) <= 8


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_request_larger_than_a_pass_is_split_and_does_not_delay_small_ones(in_thread: bool) -> None:
    net = Double(delay_s=0.001)
    batcher = make_batcher(net, in_thread=in_thread)
    done: list[str] = []

    async def call(name: str, count: int) -> None:
        await batcher.forward(make_rows(0, count))
        done.append(name)

    async def call_both() -> None:
        await asyncio.gather(call("large", 100), call("small", 1))

    asyncio.run(call_both())

    assert done == ["small", "large"]
    # The first pass may have started before the small request arrived.
    assert sum(net.passes) == 101
    assert len(net.passes) in (13, 14)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_request_that_the_net_refuses_does_not_fail_the_others(in_thread: bool) -> None:
    batcher = make_batcher(Double(), in_thread=in_thread)

    async def call(caller: int) -> Array | BaseException:
        rows = make_rows(caller, 2)
        if caller == 3:
            rows[1, 0] = POISON
        (y,) = await batcher.forward(rows)
        return y

    async def call_all() -> list[Array | BaseException]:
        return await asyncio.gather(*map(call, range(10)), return_exceptions=True)

    results = asyncio.run(call_all())

    assert isinstance(results[3], InferenceFailed)
    assert "ValueError: a poisoned row" in str(results[3])
    for caller in {*range(10)} - {3}:
        assert np.array_equal(results[caller], make_rows(caller, 2) * 2)


def test_rows_of_a_caller_that_left_are_not_computed() -> None:
    net = Double(delay_s=0.02)
    batcher = make_batcher(net, rows=1, in_thread=True)

    async def leave() -> None:
        calls = [asyncio.create_task(batcher.forward(make_rows(n, 1))) for n in range(20)]
        await asyncio.sleep(0.03)
        for call in calls[2:]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await batcher.forward(make_rows(0, 1))

    asyncio.run(leave())

    assert len(net.passes) <= 4


class SimulatedNet(nn.Module):
    """A pass takes pass_s up to free_rows rows, and proportionally more beyond, on a clock of its own."""

    def __init__(self, pass_s: float, free_rows: int) -> None:
        super().__init__()
        self.pass_s, self.free_rows, self.now_s = pass_s, free_rows, 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.now_s += self.pass_s * max(1, len(x) / self.free_rows)
        return x


@pytest.mark.parametrize(
    ("pass_ms", "free_rows", "expected_rows"), [(50, 1, 1), (50, 8, 8), (50, 64, 32), (9, 4, 8), (9, 1, 2), (1, 1, 16)]
)
def test_a_pass_has_the_rows_that_raise_throughput_and_more_where_it_is_short(
    monkeypatch: pytest.MonkeyPatch, pass_ms: float, free_rows: int, expected_rows: int
) -> None:
    net = SimulatedNet(pass_ms / 1000, free_rows)
    batcher = Batcher(net, "cpu", 32, None, (False,))
    monkeypatch.setattr(pass_timing, "perf_counter", lambda: net.now_s)

    batcher.warm_up(np.zeros((1, 2), np.float32))

    assert batcher._pass_rows == expected_rows


def test_a_fast_net_runs_on_the_event_loop_and_a_slow_one_in_a_thread() -> None:
    fast, slow = (
        Batcher(net, "cpu", 8, None, (False,)) for net in (nn.Identity(), Double(delay_s=4 * MAX_INLINE_PASS_S))
    )
    for batcher in (fast, slow):
        batcher.warm_up(np.zeros((1, 2), np.float32))

    assert (fast._inline, slow._inline) == (True, False)


def make_time_axis_batcher() -> Batcher:
    batcher = Batcher(DoubleAndSum(), "cpu", 32, 0, (True, False))
    batcher.warm_up([np.array([1, 2, 3])])
    return batcher


def test_rows_of_unequal_length_come_back_in_order_and_cut_to_their_requests_length() -> None:
    batcher = make_time_axis_batcher()
    rng = np.random.default_rng(0)
    requests = [[rng.integers(1, 100, rng.integers(1, 200)) for _ in range(rng.integers(1, 40))] for _ in range(50)]

    async def call_all() -> list[tuple[Array, ...]]:
        return await asyncio.gather(*map(batcher.forward, requests))

    for rows, (doubled, sums) in zip(requests, asyncio.run(call_all()), strict=True):
        assert doubled.shape == (len(rows), max(map(len, rows)), 1)
        assert sums.tolist() == [[row.sum()] for row in rows]
        for row, y in zip(rows, doubled, strict=True):
            assert np.array_equal(y[: len(row), 0], row * 2)


def test_padding_stays_under_a_quarter_on_real_reviews() -> None:
    texts = reviews().inputs[:3000]
    tokenizer = Tokenizer.fit(TokenizerConfig(kind="characters"), texts)
    rows = [np.array(tokenizer.encode(text).ids[:256] or [1]) for text in texts]
    batcher = make_time_axis_batcher()

    async def call(start: int) -> None:
        # Requests of one text, and of several.
        await batcher.forward(rows[start : start + (1 if start % 8 else 4)])

    async def call_all() -> None:
        await asyncio.gather(*map(call, range(len(rows) - 4)))

    asyncio.run(call_all())

    assert batcher.statistics.rows > 3000
    assert batcher.statistics.padding / batcher.statistics.time_steps < 0.25
    # Passes are full all the same.
    assert batcher.statistics.rows / batcher.statistics.passes > 16

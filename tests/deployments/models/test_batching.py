"""Rows of many callers through one net: whose they are, how many at a time, and what filling them up costs."""
# Shapes: N rows of a pass, T steps.

import asyncio
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deployments.errors import InferenceFailed
from deployments.models import batching
from deployments.models.batching import MAX_INLINE_PASS_S, Batcher
from deployments.protocols.arrays import Array
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.zoo.datasets.reviews import reviews

POISON = -1.0


class Double(nn.Module):
    """Doubles each row; notes how many came at a time; fails for a poisoned one, and takes as long as it is told."""

    def __init__(self, takes_s: float = 0.0) -> None:
        super().__init__()
        self.takes_s, self.passes = takes_s, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        if (x == POISON).any():
            raise ValueError("a poisoned row")
        time.sleep(self.takes_s)
        return x * 2


class Steps(nn.Module):
    """Two outputs of rows of steps: each step doubled, and the sum of the row."""

    def forward(self, x_NT: Tensor) -> tuple[Tensor, Tensor]:
        return x_NT[..., None] * 2, x_NT.sum(1, keepdim=True)


def batcher(net: nn.Module, *, rows: int = 8, in_thread: bool = False) -> Batcher:
    made = Batcher(net, "cpu", rows, None, (False,))
    made.warm_up(np.zeros((1, 2), np.float32))
    # What the warm-up found is this machine's affair.
    made._inline, made._pass_rows = not in_thread, rows
    if isinstance(net, Double):
        net.passes.clear()
    return made


def rows_of(caller: int, count: int) -> Array:
    return np.stack([np.array([caller, row], np.float32) for row in range(count)])


@pytest.mark.parametrize("in_thread", [False, True])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_of_a_thousand_callers_gets_back_its_own_rows_in_their_order(in_thread: bool, seed: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.choice([1, 1, 1, 2, 3, 8, 9, 20]) for _ in range(1000)]
    net = Double()
    made = batcher(net, in_thread=in_thread)

    async def call(caller: int) -> Array:
        await asyncio.sleep(draw.random() * 0.02)
        (y,) = await made.forward(rows_of(caller, sizes[caller]))
        return y

    async def all_of_them() -> list[Array]:
        return await asyncio.gather(*map(call, range(1000)))

    for caller, y in enumerate(asyncio.run(all_of_them())):
        assert np.array_equal(y, rows_of(caller, sizes[caller]) * 2)
    assert sum(net.passes) == sum(sizes)
    assert max(net.passes) <= 8


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_pass_is_counted_in_rows_and_a_larger_request_is_cut_without_holding_up_small_ones(in_thread: bool) -> None:
    net = Double(takes_s=0.001)
    made = batcher(net, in_thread=in_thread)
    done: list[str] = []

    async def call(name: str, count: int) -> None:
        await made.forward(rows_of(0, count))
        done.append(name)

    async def both() -> None:
        await asyncio.gather(call("large", 100), call("small", 1))

    asyncio.run(both())

    assert done == ["small", "large"]
    # The first may have gone before the small one came.
    assert sum(net.passes) == 101
    assert len(net.passes) in (13, 14)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_poisoned_request_fails_alone(in_thread: bool) -> None:
    made = batcher(Double(), in_thread=in_thread)

    async def call(caller: int) -> Array | BaseException:
        rows = rows_of(caller, 2)
        if caller == 3:
            rows[1, 0] = POISON
        (y,) = await made.forward(rows)
        return y

    async def all_of_them() -> list[Array | BaseException]:
        return await asyncio.gather(*map(call, range(10)), return_exceptions=True)

    found = asyncio.run(all_of_them())

    assert isinstance(found[3], InferenceFailed)
    assert "ValueError: a poisoned row" in str(found[3])
    for caller in {*range(10)} - {3}:
        assert np.array_equal(found[caller], rows_of(caller, 2) * 2)


def test_what_a_caller_who_left_had_sent_is_not_computed() -> None:
    net = Double(takes_s=0.02)
    made = batcher(net, rows=1, in_thread=True)

    async def leave() -> None:
        calls = [asyncio.create_task(made.forward(rows_of(n, 1))) for n in range(20)]
        await asyncio.sleep(0.03)
        for call in calls[2:]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await made.forward(rows_of(0, 1))

    asyncio.run(leave())

    assert len(net.passes) <= 4


class Grows(nn.Module):
    """Takes as long for each row as for the first ones together, by a clock of its own."""

    def __init__(self, takes_s: float, free_rows: int) -> None:
        super().__init__()
        self.takes_s, self.free_rows, self.now_s = takes_s, free_rows, 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.now_s += self.takes_s * max(1, len(x) / self.free_rows)
        return x


@pytest.mark.parametrize(
    ("takes_ms", "free_rows", "pays"), [(50, 1, 1), (50, 8, 8), (50, 64, 32), (9, 4, 8), (9, 1, 2), (1, 1, 16)]
)
def test_a_pass_takes_as_many_rows_as_bring_throughput_and_more_where_it_is_brief(
    monkeypatch: pytest.MonkeyPatch, takes_ms: float, free_rows: int, pays: int
) -> None:
    net = Grows(takes_ms / 1000, free_rows)
    made = Batcher(net, "cpu", 32, None, (False,))
    monkeypatch.setattr(batching, "perf_counter", lambda: net.now_s)

    made.warm_up(np.zeros((1, 2), np.float32))

    assert made._pass_rows == pays


def test_a_slow_net_leaves_the_event_loop_and_a_fast_one_stays_on_it() -> None:
    fast, slow = (
        Batcher(net, "cpu", 8, None, (False,)) for net in (nn.Identity(), Double(takes_s=4 * MAX_INLINE_PASS_S))
    )
    for made in (fast, slow):
        made.warm_up(np.zeros((1, 2), np.float32))

    assert (fast._inline, slow._inline) == (True, False)


def stepped() -> Batcher:
    made = Batcher(Steps(), "cpu", 32, 0, (True, False))
    made.warm_up([np.array([1, 2, 3])])
    return made


def test_rows_of_unequal_length_come_back_at_their_places_and_cut_to_their_request() -> None:
    made = stepped()
    rng = np.random.default_rng(0)
    asked = [[rng.integers(1, 100, rng.integers(1, 200)) for _ in range(rng.integers(1, 40))] for _ in range(50)]

    async def all_of_them() -> list[tuple[Array, ...]]:
        return await asyncio.gather(*map(made.forward, asked))

    for rows, (doubled, sums) in zip(asked, asyncio.run(all_of_them()), strict=True):
        assert doubled.shape == (len(rows), max(map(len, rows)), 1)
        assert sums.tolist() == [[row.sum()] for row in rows]
        for row, y in zip(rows, doubled, strict=True):
            assert np.array_equal(y[: len(row), 0], row * 2)


def test_filling_stays_under_a_quarter_on_real_reviews() -> None:
    texts = reviews().inputs[:3000]
    tokeniser = Tokenizer.fit(TokenizerConfig(kind="characters"), texts)
    rows = [np.array(tokeniser.encode(text).ids[:256] or [1]) for text in texts]
    made = stepped()

    async def call(start: int) -> None:
        # Callers of one text each, and of several.
        await made.forward(rows[start : start + (1 if start % 8 else 4)])

    async def all_of_them() -> None:
        await asyncio.gather(*map(call, range(len(rows) - 4)))

    asyncio.run(all_of_them())

    assert made.statistics.rows > 3000
    assert made.statistics.padding / made.statistics.time_steps < 0.25
    # Passes are full nonetheless.
    assert made.statistics.rows / made.statistics.passes > 16

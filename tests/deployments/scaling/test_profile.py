"""Profiles: what they summarize, the rows per pass that follow from them, and their cache."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.scaling.profile import (
    PassTiming,
    Profile,
    ProfileCache,
    ProfileKey,
    build_key,
    choose_pass_rows,
    describe_cpu,
)
from tests.deployments.scaling.profiles import KEY, build_affine_profile, build_profile

CHANGES = [
    {"digest": "e" * 64},
    {"digest": "d" * 63 + "e"},  # whose file begins alike
    {"variant": "bf16"},
    {"processor": "another"},
    {"threads": 2},
    {"max_rows": 32},
    {"torch": "2.14.0"},
]


class WarmUp:
    """Counts how often it measured, and what it was given."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.known = profile, list[tuple[PassTiming, ...]]()

    def __call__(self, known: Sequence[PassTiming]) -> Sequence[PassTiming]:
        self.known.append(tuple(known))
        return known or self.profile.passes

    @property
    def measured(self) -> int:
        return self.known.count(())


def test_quantiles_are_durations_that_occurred_and_the_last_is_the_longest_of_few() -> None:
    many = PassTiming.of(4, [index / 1000 for index in range(200, 0, -1)])
    few = PassTiming.of(4, [0.003, 0.001, 0.002])

    assert (many.min_s, many.p50_s, many.p90_s, many.p99_s) == (0.001, 0.101, 0.181, 0.199)
    assert many.mean_s == pytest.approx(0.1005)
    assert (few.passes, few.p50_s, few.p99_s) == (3, 0.002, 0.003)
    assert few.rows_per_s == pytest.approx(2000)


@pytest.mark.parametrize(
    ("rows", "expected_ms"), [(1, 10), (2, 20), (3, 25), (4, 30), (8, 60)], ids=lambda value: str(value)
)
def test_a_pass_is_estimated_linearly_between_the_sizes_that_were_timed(rows: int, expected_ms: float) -> None:
    profile = build_profile({1: 0.010, 2: 0.020, 4: 0.030})

    assert profile.estimate_pass_s(rows) == pytest.approx(expected_ms / 1000)


@pytest.mark.parametrize(
    ("slo_p99_s", "expected_rows"),
    [(None, 64), (1.0, 64), (0.040, 32), (0.0339, 16), (0.010, 4), (0.0041, 1), (1e-4, 1)],
)
def test_two_passes_fit_into_the_goal(slo_p99_s: float | None, expected_rows: int) -> None:
    # 2 ms, 2.5, 3.5, 5.5, 9.5, 17.5 and 33.5 ms less a half.
    passes = build_affine_profile(0.0015, 0.0005).passes

    rows = choose_pass_rows([each.model_copy(update={"min_s": 0.001}) for each in passes], slo_p99_s)

    assert rows == expected_rows


def test_a_larger_pass_that_was_timed_short_by_chance_is_not_chosen_over_one_that_does_not_fit() -> None:
    passes = build_profile({1: 0.010, 2: 0.040, 4: 0.020}).passes

    assert choose_pass_rows(passes, 0.050) == 1


def test_within_a_goal_more_rows_are_taken_only_where_they_raise_throughput() -> None:
    # Twice the rows take twice as long from 2 rows on.
    passes = build_profile({1: 0.030, 2: 0.040, 4: 0.080, 8: 0.160}).passes

    assert choose_pass_rows(passes, 0.5) == 2


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_profile_of_anything_else_is_measured_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    cache, profile = ProfileCache(tmp_path), build_profile({1: 0.01})
    cache.load_or_measure(KEY, 1.0, WarmUp(profile))
    same, other = WarmUp(profile), WarmUp(profile)

    cache.load_or_measure(KEY, 1.0, same)
    found = cache.load_or_measure(KEY.model_copy(update=change), 1.0, other)

    assert (same.measured, other.measured) == (0, 1)
    assert same.known == [profile.passes]
    assert found.key == KEY.model_copy(update=change)


def test_a_profile_that_was_given_less_time_is_measured_anew_and_replaced(tmp_path: Path) -> None:
    cache, warm_up = ProfileCache(tmp_path), WarmUp(build_profile({1: 0.01}))

    budgets_s = [cache.load_or_measure(KEY, budget_s, warm_up).budget_s for budget_s in (0.0, 1.5, 0.0, 1.5)]

    assert budgets_s == [0.0, 1.5, 1.5, 1.5]
    assert warm_up.measured == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'{"key": {}}', build_profile({1: 0.01}).model_dump_json().encode()[:-9]]
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, content: bytes) -> None:
    cache, warm_up = ProfileCache(tmp_path), WarmUp(build_profile({1: 0.01}))
    (tmp_path / KEY.file_name).write_bytes(content)

    assert cache.list_profiles(KEY.digest) == []
    cache.load_or_measure(KEY, 1.0, warm_up)
    cache.load_or_measure(KEY, 1.0, warm_up)

    assert warm_up.measured == 1
    assert [each.key for each in cache.list_profiles(KEY.digest)] == [KEY]


def test_a_file_under_the_name_of_another_profile_is_not_taken_for_it(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    cache.save(build_profile({1: 0.01}))
    other = KEY.model_copy(update={"variant": "bf16"})
    (tmp_path / KEY.file_name).rename(tmp_path / other.file_name)

    assert cache.load(other) is None


def test_profiles_of_a_bundle_are_listed_newest_first_and_those_of_others_are_not(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    for change in [{}, *CHANGES]:
        key = KEY.model_copy(update=change)
        cache.save(build_profile({1: 0.01}, key=key).model_copy(update={"measured_at": float(key.threads)}))

    listed = cache.list_profiles(KEY.digest)

    assert len(listed) == len(CHANGES) - 1
    assert listed[0].key.threads == 2
    assert {each.key.digest for each in listed} == {KEY.digest}


def test_of_two_replicas_that_start_together_one_measures(tmp_path: Path) -> None:
    profile, begun, go_on = build_profile({1: 0.01}), threading.Event(), threading.Event()

    class Slow(WarmUp):
        def __call__(self, known: Sequence[PassTiming]) -> Sequence[PassTiming]:
            begun.set()
            assert go_on.wait(10)
            return super().__call__(known)

    first, second = Slow(profile), WarmUp(profile)
    threads = [
        threading.Thread(target=ProfileCache(tmp_path).load_or_measure, args=(KEY, 1.0, warm_up))
        for warm_up in (first, second)
    ]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    assert second.known == []
    go_on.set()
    for thread in threads:
        thread.join(10)

    assert (first.measured, second.measured) == (1, 0)
    assert second.known == [profile.passes]


def test_a_key_names_this_machines_processor_and_the_threads_of_torch() -> None:
    key = build_key("d" * 64, "fp32", 64)

    assert key == ProfileKey(
        digest="d" * 64,
        variant="fp32",
        processor=torch.cuda.get_device_name() if torch.cuda.is_available() else describe_cpu(),
        threads=0 if torch.cuda.is_available() else torch.get_num_threads(),
        max_rows=64,
        torch=torch.__version__,
    )
    assert key.processor

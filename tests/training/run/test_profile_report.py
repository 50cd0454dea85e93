import pytest
from rich.console import Console

from training.run.profile_report import render_profile

METRICS = {
    "profile_steps": 100,
    "profile_data_s": 1.0,
    "profile_forward_s": 3.0,
    "profile_backward_s": 5.0,
    "profile_all-reduce_s": 2.0,
    "profile_optimizer_s": 1.0,
    "profile_all_s": 20.0,
    "profile_allreduce_bytes": 100 * 10_000_000,
}


def render(metrics: dict[str, float]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_profile(metrics))
    return capture.get()


@pytest.mark.parametrize(
    ("phase", "ms_per_step"), [("backward", "50.00"), ("other", "100.00"), ("all-reduce", "20.00")]
)
def test_time_outside_of_all_phases_is_shown_as_other(phase: str, ms_per_step: str) -> None:
    (line,) = (line for line in render(METRICS).splitlines() if phase in line)

    assert ms_per_step in line


def test_the_estimated_speedup_is_limited_by_a_link_slower_than_the_step() -> None:
    lines = {line.split()[0]: line.split()[-1] for line in render(METRICS).splitlines() if "bit/s" in line}

    # 10 MB of gradients against a step of 100 ms: 157 ms over one Gbit/s, 16 ms over ten.
    assert lines == {"1": "40.6x", "10": "64.0x", "100": "64.0x"}


def test_a_run_of_one_worker_shows_neither_all_reduce_nor_speedup() -> None:
    text = render(METRICS | {"profile_allreduce_bytes": 0, "profile_all-reduce_s": 0})

    assert "all-reduce" not in text
    assert "speedup" not in text

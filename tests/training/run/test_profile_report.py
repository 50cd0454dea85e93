import pytest
from rich.console import Console

from training.run.profile_report import render_profile

METRICS = {
    "profile_steps": 100,
    "profile_data_s": 1.0,
    "profile_forward_s": 3.0,
    "profile_backward_s": 5.0,
    "profile_all-reduce_s": 2.0,
    "profile_optimiser_s": 1.0,
    "profile_all_s": 20.0,
    "profile_allreduce_bytes": 100 * 10_000_000,
}


def shown(metrics: dict[str, float]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_profile(metrics))
    return capture.get()


@pytest.mark.parametrize(("phase", "told"), [("backward", "50.00"), ("other", "100.00"), ("all-reduce", "20.00")])
def test_what_no_phase_explains_is_told_as_other(phase: str, told: str) -> None:
    (line,) = (line for line in shown(METRICS).splitlines() if phase in line)

    assert told in line


def test_machines_are_no_help_where_the_link_is_slower_than_the_step() -> None:
    lines = {line.split()[0]: line.split()[-1] for line in shown(METRICS).splitlines() if "bit/s" in line}

    # 10 MB of gradients against a step of 100 ms: 157 ms over one Gbit/s, 16 ms over ten.
    assert lines == {"1": "40.6x", "10": "64.0x", "100": "64.0x"}


def test_one_worker_is_told_nothing_of_an_exchange() -> None:
    text = shown(METRICS | {"profile_allreduce_bytes": 0, "profile_all-reduce_s": 0})

    assert "all-reduce" not in text
    assert "paper" not in text

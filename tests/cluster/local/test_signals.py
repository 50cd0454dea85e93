"""Signals: what changes two things at once is not cut between them."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from cluster.local.signals import delay_interrupts


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal that raises KeyboardInterrupt, though the tests may run where it is ignored."""
    inherited = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, inherited)


def test_an_interrupt_takes_effect_at_the_end_of_the_block(number: int) -> None:
    steps = []

    def run() -> None:
        with delay_interrupts():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            steps.append("both done")
        steps.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        run()

    assert steps == ["both done"]
    assert signal.getsignal(number) is signal.default_int_handler


def test_an_error_inside_wins_and_handlers_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(ZeroDivisionError), delay_interrupts():
        raise ZeroDivisionError

    assert signal.getsignal(signal.SIGINT) == before


def test_other_threads_get_no_signals_and_need_no_delay() -> None:
    ran = []

    def run() -> None:
        with delay_interrupts():
            ran.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert ran == [True]

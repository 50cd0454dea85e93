"""Signals: termination ends a command in order, as Ctrl-C does; what must not be cut short ignores both."""

import signal
from collections.abc import Callable


def interrupt_on_termination() -> None:
    """Make SIGTERM and SIGHUP (a closed terminal) raise KeyboardInterrupt in this process, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        # A process started with nohup ignores SIGHUP and shall go on doing so.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def run_uninterruptible(function: Callable[[], object]) -> None:
    """Call a function while Ctrl-C, SIGTERM and SIGHUP are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        function()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

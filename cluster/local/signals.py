"""Signals: termination ends a command in order, as Ctrl-C does; what must not be cut short ignores both."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal like it, in the middle of a change; the message says which state was left."""


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
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _INTERRUPTS}
    try:
        function()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def delay_interrupts() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP take effect at the end of the block; only the main thread gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _INTERRUPTS}
    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt

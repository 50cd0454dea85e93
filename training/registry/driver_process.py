"""Driver: which process drives a run; where it was killed, nobody was left to say that the run had ended.

Train walk: training.registry.model_registry: start_run notes it, training.registry.runs asks
"""

import os
import socket

import psutil

# Process numbers come again; one that started at another time is another process.
SAME_S = 5.0


def this() -> str:
    """What names this process: its machine, number and start."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"


def living(named: str) -> int | None:
    """The number of a process that runs on this machine; None for any other."""
    host, number, started = named.split()
    if host != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(number))
        same = abs(process.create_time() - float(started)) < SAME_S and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process.pid if same else None


def gone(named: str) -> bool:
    """Whether a process is known to have ended; of another machine's nothing is known."""
    return bool(named) and named.split()[0] == socket.gethostname() and living(named) is None

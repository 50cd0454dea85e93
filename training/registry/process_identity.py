"""Process identity: names a process, so that another one can tell later whether it still runs.

A driver that was killed cannot record that its run has ended, and a cluster that was killed cannot delete its record:
who reads them checks the process.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of some machine.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        started: when it started: the id of the machine's boot, and clock ticks since then. A process id is reused, and
            the time of day may be set.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """A process that runs on this machine.

        Raises:
            psutil.NoSuchProcess: it has ended.
        """
        return cls(socket.gethostname(), pid, _read_start(pid))

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        """Read what `str` wrote."""
        host, pid, started = text.split()
        return cls(host, int(pid), started)

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started}"

    def is_alive(self) -> bool:
        """Whether it runs on this machine; False for a process of another machine."""
        if self.host != socket.gethostname():
            return False
        try:
            return _read_start(self.pid) == self.started and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def has_ended(self) -> bool:
        """Whether it ran on this machine and has ended; False for a process of another machine."""
        return self.host == socket.gethostname() and not self.is_alive()


def _read_start(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise psutil.NoSuchProcess(pid) from None
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: starttime, counted behind the name in parentheses.
    return f"{BOOT_ID.read_text().strip()}-{stat.rpartition(')')[2].split()[19]}"

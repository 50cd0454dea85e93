"""Ports and addresses of this machine."""

import socket

from training.errors import UserError


class Ports:
    """Picks free ports, never the same one twice."""

    def __init__(self) -> None:
        self._claimed: set[int] = set()

    def pick_free(self) -> int:
        """Pick a port that nobody listens on now."""
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in self._claimed:
                self._claimed.add(port)
                return port

    def claim(self, host: str, port: int, setting: str) -> int:
        """Claim the port that a setting names, or pick a free one for 0.

        Raises:
            UserError: it is in use, or another setting names it too.
        """
        if port == 0:
            return self.pick_free()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise UserError(
                    f"port {port} on {host} is in use ({error.strerror}); set SHOAL_{setting.upper()} to another, or 0"
                ) from error
        if port in self._claimed:
            raise UserError(f"port {port} is set twice; set SHOAL_{setting.upper()} to another, or 0")
        self._claimed.add(port)
        return port


def is_listening(host: str, port: int) -> bool:
    """Whether something listens on this port."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def find_node_address() -> str:
    """The address of the default route, by which other machines reach this one; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])

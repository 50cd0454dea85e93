"""Callers that send one request after the other, and count what becomes of each."""

import threading
import time
from typing import Self

import httpx

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.conftest import open_http

PATH = "/v2/models/{name}/predict"


class Load:
    """Calls a model from several connections, without retries; use as a context manager."""

    def __init__(self, settings: Settings, cluster: Cluster, name: str, callers: int = 4, rows: int = 1) -> None:
        self._body = {"inputs": [[1, 2, 3, 4]] * rows}
        self._settings, self._cluster, self._path = settings, cluster, PATH.format(name=name)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        # (when it ended, what became of it: "200", another status, or an exception's name)
        self.outcomes: list[tuple[float, str]] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait_for_answers(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    @property
    def failures(self) -> list[tuple[float, str]]:
        return [(at, outcome) for at, outcome in self.outcomes if outcome != "200"]

    def wait_for_answers(self, count: int, timeout_s: float = 60) -> None:
        """Wait until so many more requests were answered."""
        wanted, deadline = self._count_answers() + count, time.monotonic() + timeout_s
        while self._count_answers() < wanted:
            assert time.monotonic() < deadline, f"{count} answers did not come: {self.failures[-3:]}"
            time.sleep(0.02)

    def _count_answers(self) -> int:
        return sum(outcome == "200" for _, outcome in self.outcomes)

    def _call(self) -> None:
        with open_http(self._settings, self._cluster) as http:
            while not self._end.is_set():
                try:
                    outcome = str(http.post(self._path, json=self._body).status_code)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                self.outcomes.append((time.monotonic(), outcome))
                if outcome != "200":
                    time.sleep(0.02)

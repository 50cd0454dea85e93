"""The directory in this process, called without Ray, and edges that follow it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from deployments.edge.directory import Directory
from deployments.edge.state import EdgeState, Member


@contextlib.asynccontextmanager
async def run_directory() -> AsyncIterator[Directory]:
    directory = Directory()
    try:
        yield directory
    finally:
        directory._task.cancel()
        await asyncio.gather(directory._task, return_exceptions=True)


class FakeEdge:
    """Follows a directory, as an edge does, and remembers every state."""

    def __init__(self, directory: Directory, name: str, apply_s: float = 0.0) -> None:
        self.states: list[EdgeState] = []
        self._directory, self._name, self._apply_s = directory, name, apply_s
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        revision = 0
        while True:
            state = await self._directory.watch(self._name, revision)
            await asyncio.sleep(self._apply_s)
            if state.revision != revision:
                self.states.append(state)
            revision = state.revision

    def vanish(self) -> None:
        """Ask no more."""
        self._task.cancel()

    @property
    def members(self) -> tuple[Member, ...]:
        return self.states[-1].members


@contextlib.asynccontextmanager
async def run_edges(directory: Directory, *apply_s: float) -> AsyncIterator[list[FakeEdge]]:
    edges = [FakeEdge(directory, f"edge-{index}", each) for index, each in enumerate(apply_s)]
    async with asyncio.timeout(5):
        while not all(edge.states for edge in edges):
            await asyncio.sleep(0.01)
    try:
        yield edges
    finally:
        for edge in edges:
            edge.vanish()


async def wait_for_state(edge: FakeEdge, condition: object) -> EdgeState:
    """Wait until an edge has a state for which a condition holds."""
    async with asyncio.timeout(5):
        while not condition(edge.states[-1]):  # type: ignore[operator]
            await asyncio.sleep(0.01)
    return edge.states[-1]

"""One edge for the tests of a file that only send requests."""

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.deployments.edge.local_edge import LocalEdge, run_edge


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def keep_collections_short() -> None:
    """Leave out what other tests have left: a collection of all of it stalls the loop for longer than checks wait."""
    gc.freeze()


@pytest.fixture(scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[LocalEdge]:
    """An edge in front of the control application and of two models."""
    async with run_edge(tmp_path_factory.mktemp("edge")) as edge:
        yield edge


@pytest.fixture
async def http(edge: LocalEdge) -> AsyncIterator[httpx.AsyncClient]:
    """A client that sends the key."""
    async with edge.open_http() as http:
        yield http


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path

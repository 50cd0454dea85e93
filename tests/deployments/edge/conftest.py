"""One edge for the tests of a file that only send requests."""

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments.edge import directory as directory_module
from deployments.edge.directory import Directory
from tests.deployments.callers import write_pepper
from tests.deployments.edge.local_directory import run_directory
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "edge_secret").write_text("of the edge\n")
    write_pepper(tmp_path)
    for name, seconds in (("READ_INTERVAL_S", 0.02), ("MAX_APPLY_S", 1.0), ("WATCH_S", 0.3)):
        monkeypatch.setattr(directory_module, name, seconds)
    return tmp_path


@pytest.fixture
async def directory(home: Path) -> AsyncIterator[Directory]:
    async with run_directory() as directory:
        yield directory

"""The command line inside this process: a command's start takes longer than most of what it does."""

import contextlib
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cli.app import run
from tests.conftest import Shoal


@contextlib.contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def shoal_in_process(home: Path) -> Shoal:
    """As `tests.conftest.shoal_for`, by the function that the `shoal` command calls."""

    def call(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> object:
        ours = {f"SHOAL_{name}_PORT": "0" for name in ("HTTP", "GRPC", "DASHBOARD")} | {"SHOAL_HOME": str(home)}
        out, errors = io.StringIO(), io.StringIO()
        with (
            environment(ours | (env or {})),
            contextlib.chdir(cwd or Path.cwd()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            code = run(list(arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())

    return call  # type: ignore[return-value]


@pytest.fixture
def quiet(tmp_path: Path) -> Shoal:
    """A command line whose SHOAL_HOME has no cluster."""
    return shoal_in_process(tmp_path / "home")

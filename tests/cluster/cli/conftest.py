"""Commands run in this process, since starting a subprocess takes longer than most of them."""

import contextlib
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cli.app import run
from tests.conftest import ShoalCli


@contextlib.contextmanager
def set_environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_in_process_cli(home: Path) -> ShoalCli:
    """As `tests.conftest.make_shoal_cli`, without a subprocess."""

    def run_in_process(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> object:
        variables = {f"SHOAL_{name}_PORT": "0" for name in ("HTTP", "GRPC", "DASHBOARD")} | {"SHOAL_HOME": str(home)}
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            set_environment(variables | (env or {})),
            contextlib.chdir(cwd or Path.cwd()),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            exit_code = run(list(arguments))
        return subprocess.CompletedProcess(arguments, exit_code, stdout.getvalue(), stderr.getvalue())

    return run_in_process  # type: ignore[return-value]


@pytest.fixture
def shoal(tmp_path: Path) -> ShoalCli:
    """A command line with an empty SHOAL_HOME and no cluster."""
    return make_in_process_cli(tmp_path / "home")

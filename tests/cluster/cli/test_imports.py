"""What each command may import: one that prints three lines must not wait for PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Modules that take 0.2 s or more to import.
SLOW_IMPORTS = {
    "torch",
    "ray",
    "mlflow",
    "pandas",
    "numpy",
    "pyarrow",
    "sqlalchemy",
    "matplotlib",
    "fastapi",
    "httpx",
    "PIL",
    "grpc",
}

ALLOWED: dict[str, set[str]] = {
    "--help": set(),
    "--version": set(),
    "settings": set(),
    "settings --json": set(),
    "recipes": set(),
    "recipes show digits-cnn": set(),
    "recipes show digits-cnn --schema": set(),
    "init": set(),
    "down": set(),
    "status": set(),
    "undeploy flowers": {"httpx", "sqlalchemy"},
    "logs flowers": {"sqlalchemy"},
    "models import nowhere": set(),
}

SCRIPT = """
import json, sys
from cluster.cli.app import run
run(sys.argv[2:])
print("\\n" + json.dumps(sorted(set(sys.modules) & set(json.loads(sys.argv[1])))))
"""


@pytest.mark.parametrize("line", ALLOWED)
def test_a_command_imports_no_slow_module_that_it_does_not_need(line: str, tmp_path: Path) -> None:
    environment = os.environ | {"SHOAL_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", SCRIPT, json.dumps(sorted(SLOW_IMPORTS)), *line.split()]

    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert result.stdout, result.stderr
    imported = json.loads(result.stdout.splitlines()[-1])
    assert set(imported) <= ALLOWED[line], f"{line} imports {imported}"

"""What each command may import: one that prints three lines must not wait for PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.completion import complete_models
from training.registry.model_registry import Registry
from training.settings import TrainingSettings

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
    "usage": {"sqlalchemy"},
    "usage capacity": {"sqlalchemy"},
    "audit": {"sqlalchemy"},
    "audit head": {"sqlalchemy"},
    "models import nowhere": set(),
}

COMPLETIONS = {
    "train digits": ["digits-cnn", "digits-detect", "digits-mlp", "digits-resnet", "digits-vae"],
    "recipes show iri": ["iris"],
    "deploy flow": ["flowers"],
    "predict f": ["flowers"],
    "undeploy ": ["flowers"],
    "models show f": ["flowers"],
    "models promote f": ["flowers"],
    "models delete f": ["flowers"],
    "logs r": [],
}
"""What is offered at the end of a line, where `flowers` is published."""

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


COMPLETE = """
import json, sys
from cluster.cli.app import run
try:
    run([])
finally:
    print("\\n" + json.dumps(sorted(set(sys.modules) & set(json.loads(sys.argv[1])))))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a registry in which the model `flowers` is published."""
    from tests.small_bundles import save_table

    folder = tmp_path_factory.mktemp("published")
    save_table(folder / "bundle")
    settings = TrainingSettings(home=folder / "home")
    Registry(settings).publish(folder / "bundle")
    return {"SHOAL_HOME": str(settings.home)}


@pytest.mark.parametrize("line", COMPLETIONS)
def test_a_shell_completes_names_without_slow_imports(line: str, published: dict[str, str]) -> None:
    words = f"shoal {line}"
    environment = os.environ | published
    environment |= {"_SHOAL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-c", COMPLETE, json.dumps(sorted(SLOW_IMPORTS))]

    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    *offered, imported = result.stdout.splitlines()
    assert [name for name in offered if name] == COMPLETIONS[line], result.stderr
    assert json.loads(imported) == []


@pytest.mark.parametrize("settings", [{"SHOAL_HTTP_PROT": "1"}, {"SHOAL_REGISTRY_URI": f"sqlite:///{__file__}"}])
def test_a_shell_is_offered_nothing_where_the_settings_are_wrong(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert complete_models("f") == []

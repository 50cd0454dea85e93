"""The package's entrance: public names are imported on first use, and importing it imports nothing else."""

import subprocess
import sys

import pytest

import deployments


def test_importing_the_package_imports_nothing_of_its_own() -> None:
    code = "import sys, deployments; print([name for name in sys.modules if name.partition('.')[0] in %r])"
    packages = ("deployments", "training", "ray", "torch", "numpy", "pydantic", "httpx")

    done = subprocess.run([sys.executable, "-c", code % (packages,)], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['deployments']"


@pytest.mark.parametrize("name", deployments.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    assert getattr(deployments, name).__name__ == name
    assert name in dir(deployments)


def test_the_public_names_are_those_of_the_modules() -> None:
    assert sorted(name for names in deployments._MODULES.values() for name in names) == deployments.__all__


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = deployments.Nothing  # type: ignore[attr-defined]

"""Files of installed packages, read without importing the package and checked against a pinned sha256."""

import hashlib
import importlib.util
from pathlib import Path

from training.errors import UserError


def find_package_folder(package: str, install_command: str) -> Path:
    """Locate an installed package by its import name, without importing it.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the data set is part of the package {package}, which is not installed; run: {install_command}"
        )
    return Path(spec.submodule_search_locations[0])


def read_package_file(
    package: str, path: str, sha256: str, install_command: str = "pip install '.[data]' in Shoal's checkout"
) -> bytes:
    """Read a file of an installed package.

    Args:
        package: import name.
        path: of the file, relative to the package's folder.
        sha256: expected digest of the file.
        install_command: command that installs the package, for the error message.

    Raises:
        UserError: the package is not installed, or the file is missing or has another digest.
    """
    file = find_package_folder(package, install_command) / path
    if not file.is_file():
        raise UserError(f"the installed {package} has no file {path}; run: {install_command}")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(f"{path} of {package} has sha256 {digest}, expected {sha256}; run: {install_command}")
    return content

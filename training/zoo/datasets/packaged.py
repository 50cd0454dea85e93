"""Files of installed packages: found without importing the package, and checked against a known sha256."""

import hashlib
import importlib.util
from pathlib import Path

from training.errors import UserError


def packaged(package: str, path: str, sha256: str, bring: str = "pip install 'shoal[data]'") -> bytes:
    """Read a file of an installed package.

    Args:
        package: its import name.
        path: of the file, below the package's folder.
        sha256: of the file that we know.
        bring: the command that installs the package.

    Raises:
        Mistake: the package is not installed, or the file is another one.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"this data set comes with {package}, which is not installed; {bring}")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        raise UserError(f"the {package} that is installed has no {path}; {bring}")
    raw = file.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise UserError(f"{path} of {package} is not the file we know: sha256 {found}, expected {sha256}; {bring}")
    return raw

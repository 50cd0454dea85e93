"""Recipe code: the Python files that a user's recipe imports from its own folder, copied aside to travel to workers.

Train walk: train.py -> [recipe_code.py] -> cluster.local.connect or jobs.py
Only what is imported travels: no data, no virtual environment, no credentials. What a function imports
is found as well, since imports are read from the code (modulefinder), and not only from what is imported already.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from training.errors import UserError
from training.recipe.load import import_path
from training.recipe.spec import Data, Recipe

# Entries of a recipe's folder that are named as left behind, at most.
MAX_NAMED = 6
# Workers have them; in a checkout they lie beside a recipe at its top.
_SHOAL_PACKAGES = tuple(Path(__file__).parents[1] / name for name in ("cluster", "deployments", "training"))
# How modulefinder calls a package among the kinds of modules.
_PACKAGE = 5
_ENVIRONMENT_MARKERS = ("pyvenv.cfg", "conda-meta")


@dataclass(frozen=True)
class RecipeCode:
    """Code of one recipe.

    Attributes:
        folder: of the recipe file.
        recipe_file: relative to the folder.
        files: what travels, relative to the folder.
        left_behind: other entries of the folder, which stay where they are.
    """

    folder: Path
    recipe_file: Path
    files: tuple[Path, ...]
    left_behind: tuple[str, ...]

    def describe(self) -> str:
        """What travels and what does not, in one line."""
        size = sum((self.folder / file).stat().st_size for file in self.files)
        names = ", ".join(str(file) for file in self.files[:MAX_NAMED])
        more = f" and {len(self.files) - MAX_NAMED} more" if len(self.files) > MAX_NAMED else ""
        line = f"code sent to the workers: {names}{more} ({size / 1000:.1f} kB)"
        if self.left_behind:
            more = ", ..." if len(self.left_behind) > MAX_NAMED else ""
            line += f"; not sent: {', '.join(self.left_behind[:MAX_NAMED])}{more}"
        return line

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Copy the files to a temporary folder of their own."""
        with tempfile.TemporaryDirectory(prefix="shoal-recipe-") as name:
            for file in self.files:
                target = Path(name) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / file, target)
            yield Path(name)


def collect_code(recipe: Recipe, origin: str) -> RecipeCode | None:
    """Find the code that a recipe imports from its own folder.

    Args:
        recipe: as loaded.
        origin: path of its file, or the name of a ready recipe, which needs no code of its own.

    Raises:
        UserError: a Python path of the recipe names nothing.
    """
    if not origin.endswith(".py"):
        return None
    file = Path(origin).resolve()
    folder = file.parent
    files = {file} | set(_find_imports(file, folder))
    for path in _python_paths(recipe):
        import_path(path)
    # What was imported by other means, as importlib.
    for module in list(sys.modules.values()):
        # Some modules of torch have a __file__ that names no file.
        source = Path(getattr(module, "__file__", None) or "")
        if source.is_absolute() and source.suffix == ".py" and _is_own_code(source.resolve(), folder):
            files.add(source.resolve())
    for package in {
        parent for path in files for parent in path.parents if parent != folder and folder in parent.parents
    }:
        if (package / "__init__.py").is_file():
            files.add(package / "__init__.py")
    relative = tuple(sorted(path.relative_to(folder) for path in files))
    sent = {path.parts[0] for path in relative}
    others = tuple(sorted(p.name for p in folder.iterdir() if p.name not in sent and p.name != "__pycache__"))
    return RecipeCode(folder, file.relative_to(folder), relative, others)


class _ImportFinder(ModuleFinder):
    """Finds imports of namespace packages too: folders without an __init__.py, at which modulefinder fails."""

    def __init__(self, folder: Path) -> None:
        super().__init__(path=[str(folder)])
        self._namespace_paths: dict[str, list[str]] = {}

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        """As in ModuleFinder."""
        spec = (
            None if path is None and name in sys.builtin_module_names else PathFinder.find_spec(name, path or self.path)
        )
        if spec is None or spec.loader is not None or not spec.submodule_search_locations:
            return super().find_module(name, path, parent)
        full_name = f"{parent.__name__}.{name}" if parent else name
        self._namespace_paths[full_name] = list(spec.submodule_search_locations)
        return None, self._namespace_paths[full_name][0], ("", "", _PACKAGE)

    def load_package(self, fqname: str, pathname: str) -> Any:
        """As in ModuleFinder; a namespace package has no code of its own."""
        if fqname not in self._namespace_paths:
            return super().load_package(fqname, pathname)
        module: Any = self.add_module(fqname)
        module.__path__ = self._namespace_paths[fqname]
        return module


def _find_imports(file: Path, folder: Path) -> Iterator[Path]:
    finder = _ImportFinder(folder)
    try:
        finder.run_script(str(file))
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}; fix it") from error
    for module in finder.modules.values():
        source: str | None = module.__file__  # type: ignore[attr-defined]
        if source and _is_own_code(Path(source).resolve(), folder):
            yield Path(source).resolve()


def _python_paths(recipe: Recipe) -> list[str]:
    parts = [recipe.net, recipe.loss, recipe.augmentation, recipe.data if isinstance(recipe.data, Data) else None]
    return [part.source for part in parts if part is not None]


def _is_own_code(file: Path, folder: Path) -> bool:
    """Whether a file is the user's code below the folder: not of an environment that lies in it, nor Shoal's own."""
    if not file.is_relative_to(folder) or not file.is_file() or any(map(file.is_relative_to, _SHOAL_PACKAGES)):
        return False
    between = file.relative_to(folder).parents
    environment = any((folder / parent / marker).exists() for parent in between for marker in _ENVIRONMENT_MARKERS)
    return not environment and "site-packages" not in file.parts

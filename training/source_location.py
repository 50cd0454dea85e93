"""Source location: the line of a recipe's own code, in which an error was raised or a worker stands.

Train walk: training.recipe.load, training.run.preflight, training.worker.error_classification -> [source_location.py]
"""

import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

# Code outside of these folders is the recipe's; the zoo's, and what it is handed to, are named like it.
_PACKAGE = Path(__file__).parent
_LIBRARY_FOLDERS = (
    *(_PACKAGE / name for name in ("recipe", "run", "worker")),
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
)


def select_own_frames(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Keep the frames of the recipe's own code, in their order."""
    return [frame for frame in frames if not _is_library(frame.filename)]


def locate_error(error: BaseException) -> str:
    """Find the last line of the recipe's own code that an error passed through.

    Returns:
        `file.py, line 3`; empty where it passed through none, or says so itself.
    """
    if isinstance(error, SyntaxError):
        return ""
    own = select_own_frames(traceback.extract_tb(error.__traceback__))
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""


def describe_error(error: BaseException) -> str:
    """Describe what a user's own code raised in one line: its type, its message, its file and line."""
    location = locate_error(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{location and f' ({location})'}"


def _is_library(filename: str) -> bool:
    # Python's own import machinery is `<frozen importlib._bootstrap>`.
    return filename.startswith("<") or any(Path(filename).is_relative_to(folder) for folder in _LIBRARY_FOLDERS)

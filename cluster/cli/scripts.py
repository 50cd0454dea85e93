"""Scripts: a Python file that cannot bind what a command takes from it is refused by its text, without being run.

To run it would take as long as it takes: the script that trains a net and saves it as a bundle, for example.
"""

import re
from pathlib import Path

from training.errors import UserError

EXAMPLES = {"recipe": "recipe = Recipe(...)", "pipeline": "pipeline = Pipeline(name=..., root=...)"}


def require_binding(path: str, name: str) -> None:
    """Refuse a Python file in which a name does not occur; whether it is bound shows when the file is run.

    Args:
        path: of the file; anything else than an existing .py file is left to who reads it.
        name: recipe or pipeline.

    Raises:
        UserError: the file cannot bind it.
    """
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        return
    text = file.read_text(errors="replace")
    if not re.search(rf"\b{name}\b|import\s*\*|\b(globals|vars|exec)\b", text):
        raise UserError(f"{path} binds no `{name}`; add `{EXAMPLES[name]}`")

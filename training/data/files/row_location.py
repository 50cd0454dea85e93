"""Row location: a row's position in its file, for error messages."""

from collections.abc import Sequence

from training.errors import UserError
from training.schema import StrictModel


class SourceLocation(StrictModel):
    """The rows of a file from `row_offset` on; messages number rows from 1, without a CSV file's header."""

    file: str
    row_offset: int = 0

    def advance(self, rows: int) -> "SourceLocation":
        """Move so many rows on."""
        return self.model_copy(update={"row_offset": self.row_offset + rows})

    def value_error(self, index: int, column: str, problem: str) -> UserError:
        """Make the error for a value of the row that is `index` rows further on."""
        return self._error(index, f", column {column!r}: {problem}")

    def row_error(self, index: int, problem: str) -> UserError:
        """Make the error for the row that is `index` rows further on."""
        return self._error(index, f": {problem}")

    def require_columns(self, required: Sequence[str], columns: Sequence[str]) -> None:
        """Check that a file has each required column exactly once.

        Raises:
            UserError: it does not.
        """
        for name in required:
            if list(columns).count(name) != 1:
                count = "no" if name not in columns else "more than one"
                raise UserError(f"{self.file} has {count} column {name!r}; it has {', '.join(columns)}")

    def _error(self, index: int, problem: str) -> UserError:
        header = ", without the header" if ".csv" in self.file.lower() else ""
        return UserError(f"{self.file}, row {self.row_offset + index + 1}{problem} (rows are numbered from 1{header})")

"""Place: where in the files a row stands, for the message that says what is wrong with it."""

from collections.abc import Sequence

from training.errors import UserError
from training.schema import StrictModel


class SourceLocation(StrictModel):
    """Rows of a file that come after `before` others; they are counted from 1, a CSV file's header not among them."""

    file: str
    row_offset: int = 0

    def advance(self, rows: int) -> "SourceLocation":
        """Where the rows stand that come so many later."""
        return self.model_copy(update={"before": self.row_offset + rows})

    def value_error(self, index: int, column: str, said: str) -> UserError:
        """What to say of a value of the row that comes `index` rows later."""
        return self._said(index, f", column {column!r}: {said}")

    def row_error(self, index: int, said: str) -> UserError:
        """What to say of that row as a whole."""
        return self._said(index, f": {said}")

    def require_columns(self, columns: Sequence[str], found: Sequence[str]) -> None:
        """Check that a file has the columns that are wanted, once each.

        Raises:
            Mistake: it has not.
        """
        for name in columns:
            if list(found).count(name) != 1:
                has = "no" if name not in found else "more than one"
                raise UserError(f"{self.file} has {has} column {name!r}; it has {', '.join(found)}")

    def _said(self, index: int, said: str) -> UserError:
        header = ", the header not" if ".csv" in self.file.lower() else ""
        return UserError(f"{self.file}, row {self.row_offset + index + 1}{said} (rows count from 1{header})")

"""Place: where in the files a row stands, for the message that says what is wrong with it."""

from collections.abc import Sequence

from training.closed import Closed
from training.errors import Mistake


class Place(Closed):
    """Rows of a file that come after `before` others; they are counted from 1, a CSV file's header not among them."""

    file: str
    before: int = 0

    def after(self, rows: int) -> "Place":
        """Where the rows stand that come so many later."""
        return self.model_copy(update={"before": self.before + rows})

    def wrong(self, index: int, column: str, said: str) -> Mistake:
        """What to say of a value of the row that comes `index` rows later."""
        return self._said(index, f", column {column!r}: {said}")

    def wrong_row(self, index: int, said: str) -> Mistake:
        """What to say of that row as a whole."""
        return self._said(index, f": {said}")

    def require(self, columns: Sequence[str], found: Sequence[str]) -> None:
        """Check that a file has the columns that are wanted, once each.

        Raises:
            Mistake: it has not.
        """
        for name in columns:
            if list(found).count(name) != 1:
                has = "no" if name not in found else "more than one"
                raise Mistake(f"{self.file} has {has} column {name!r}; it has {', '.join(found)}")

    def _said(self, index: int, said: str) -> Mistake:
        header = ", the header not" if ".csv" in self.file.lower() else ""
        return Mistake(f"{self.file}, row {self.before + index + 1}{said} (rows count from 1{header})")

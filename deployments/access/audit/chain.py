"""Audit chain: each row has the hash of its content and of the row before; a signed head therefore fixes all rows.

Knows no database: what verifies a log does the same with the rows of one and with lines of an export.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from deployments.access.audit.event import canonicalize, digest_text
from deployments.access.audit.key import PublicKeys

GENESIS = "0" * 64
"""What the first row has for the hash of a row before."""

_CHAIN_FIELDS = ("previous_hash", "hash", "signature")
CONTENT_FIELDS = (
    "sequence",
    "time",
    "signer",
    "actor",
    "source",
    "action",
    "target",
    "outcome",
    "operation",
    "before",
    "after",
    "message",
    "request_id",
)


@dataclass(frozen=True)
class AuditRow:
    """A row of the log, as it was found; somebody may have written anything into it.

    Attributes:
        content: CONTENT_FIELDS.
        previous_hash: of the row before.
        hash: of this one.
        signature: of sequence and hash, by the content's signer.
    """

    content: dict[str, Any]
    previous_hash: str
    hash: str
    signature: str

    @property
    def sequence(self) -> int:
        """Number of the row, from 1."""
        sequence: int = self.content["sequence"]
        return sequence

    def to_json(self) -> dict[str, Any]:
        """The row as one object."""
        return self.content | {name: getattr(self, name) for name in _CHAIN_FIELDS}

    def to_line(self) -> str:
        """The row as a line of an export."""
        return canonicalize(self.to_json())

    @classmethod
    def parse(cls, line: str) -> "AuditRow":
        """Read a line of an export.

        Raises:
            ValueError: it is no row.
        """
        value = json.loads(line)
        if not isinstance(value, dict) or set(value) != {*CONTENT_FIELDS, *_CHAIN_FIELDS}:
            raise ValueError("its keys are not those of a row")
        if type(value["sequence"]) is not int:
            raise ValueError("its number is none")
        row = cls({name: value[name] for name in CONTENT_FIELDS}, *(value[name] for name in _CHAIN_FIELDS))
        if row.to_line() != line.rstrip("\n"):
            raise ValueError("it was written in another form")
        return row


@dataclass(frozen=True)
class Head:
    """The last row of a log at some time, signed: whoever keeps it can tell later that no row up to it was touched."""

    sequence: int
    hash: str
    signer: str
    signature: str

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Read what `json.dumps(vars(head))` wrote.

        Raises:
            ValueError: it is no head.
        """
        value = json.loads(text)
        if not isinstance(value, dict) or set(value) != set(cls.__annotations__) or type(value["sequence"]) is not int:
            raise ValueError("it has not the keys of a head")
        return cls(**value)


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a log; `row` is where, 0 for what no row has."""

    row: int
    message: str


@dataclass(frozen=True)
class Verification:
    """What a verification has found: how many rows there are, the head of the last, and what is wrong, in order."""

    rows: int
    head: Head | None
    problems: tuple[Problem, ...]


def compute_hash(previous_hash: str, content: dict[str, Any]) -> str:
    """The hash of a row."""
    return digest_text(f"{previous_hash}\n{canonicalize(content)}")


def verify_rows(rows: Iterable[AuditRow], keys: PublicKeys, heads: Iterable[Head] = ()) -> Verification:
    """Verify rows in the order in which they are found.

    Args:
        rows: all of a log.
        keys: whose signatures count.
        heads: kept elsewhere; the log must hold the row of each.
    """
    verifier = _Verifier(keys, heads)
    for row in rows:
        verifier.add(row)
    return verifier.finish()


class _Verifier:
    def __init__(self, keys: PublicKeys, heads: Iterable[Head]) -> None:
        self._keys = keys
        self._heads: dict[int, list[Head]] = {}
        self._count, self._expected, self._last_hash = 0, 1, GENESIS
        self._last: AuditRow | None = None
        self._problems: list[Problem] = []
        for head in heads:
            if reason := keys.find_problem(head.signer, head.sequence, head.hash, head.signature):
                self._problems.append(Problem(0, f"the head of row {head.sequence} {reason}"))
            else:
                self._heads.setdefault(head.sequence, []).append(head)

    def add(self, row: AuditRow) -> None:
        """Verify the next row."""
        sequence = row.sequence
        self._count += 1
        if sequence > self._expected:
            self._report(self._expected, _describe_missing(self._expected, sequence - 1))
        elif sequence < self._expected:
            self._report(sequence, f"row {sequence} comes after row {self._expected - 1}: it was inserted or moved")
        if reason := self._find_problem(row):
            self._report(sequence, f"row {sequence} {reason}")
        elif sequence == self._expected and row.previous_hash != self._last_hash:
            self._report(
                sequence, f"row {sequence} does not follow the row before it: that one was altered or replaced"
            )
        for head in self._heads.pop(sequence, []):
            if head.hash != row.hash:
                self._report(sequence, f"row {sequence} is not the one that the kept head was made of")
        if sequence >= self._expected:
            self._expected, self._last_hash, self._last = sequence + 1, row.hash, row

    def _find_problem(self, row: AuditRow) -> str:
        if compute_hash(row.previous_hash, row.content) != row.hash:
            return "was altered: it has not the hash of its content"
        return self._keys.find_problem(row.content["signer"], row.sequence, row.hash, row.signature)

    def _report(self, row: int, message: str) -> None:
        self._problems.append(Problem(row, message))

    def finish(self) -> Verification:
        """Report what is missing at the end."""
        if missing := max(self._heads, default=0):
            first = self._expected
            kept = f"the log ends with row {first - 1}, and a kept head says that there was row {missing}"
            self._report(first, f"{_describe_missing(first, missing)}: {kept}")
        return Verification(self._count, make_head(self._last) if self._last else None, tuple(self._problems))


def make_head(row: AuditRow) -> Head:
    """The head of a log whose last row this is."""
    return Head(row.sequence, row.hash, row.content["signer"], row.signature)


def verify_lines(lines: Iterable[str], keys: PublicKeys, heads: Iterable[Head] = ()) -> Verification:
    """Verify the lines of an export as verify_rows does; one that is no row is a problem by itself."""
    problems: list[Problem] = []

    def parse() -> Iterator[AuditRow]:
        for number, line in enumerate(lines, 1):
            try:
                yield AuditRow.parse(line)
            except ValueError as error:
                problems.append(Problem(0, f"line {number} is no row: {error}"))

    verification = verify_rows(parse(), keys, heads)
    return replace(verification, problems=(*problems, *verification.problems))


def _describe_missing(first: int, last: int) -> str:
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"

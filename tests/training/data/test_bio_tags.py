"""Spans become tags and come back; whatever a net says can be read."""

from collections.abc import Sequence
from itertools import pairwise, product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.data.bio_tags import IGNORE_INDEX, OUTSIDE, Offset, Span, decode_tags, spans_to_tags, tags_to_spans

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

    assert tags_to_spans(spans_to_tags(spans, offsets, LABELS), offsets, LABELS) == spans


@given(tokenised(), st.data())
def test_tokens_that_stand_for_no_text_change_no_span(
    case: tuple[list[Offset], list[Span]], data: st.DataObject
) -> None:
    offsets, spans = case
    at = data.draw(st.integers(0, len(offsets)))
    here = offsets[at][0] if at < len(offsets) else 200
    marked = [*offsets[:at], (here, here), *offsets[at:]]

    tags = spans_to_tags(spans, marked, LABELS)

    assert tags[at] == IGNORE_INDEX
    assert tags_to_spans(tags, marked, LABELS) == spans


@given(st.lists(st.integers(0, 2 * len(LABELS)), max_size=40))
def test_any_tags_give_spans_in_order_that_never_overlap(tags: list[int]) -> None:
    offsets = [(token, token + 1) for token in range(len(tags))]

    spans = tags_to_spans(tags, offsets, LABELS)

    assert all(first < last for first, last, _ in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert sum(last - first for first, last, _ in spans) == sum(tag > 0 for tag in tags)


def test_neighbouring_spans_of_one_label_stay_apart() -> None:
    offsets = [(0, 1), (1, 3), (3, 4)]

    tags = spans_to_tags([(0, 1, "PER"), (1, 4, "PER")], offsets, LABELS)

    assert tags == [1, 1, 2]
    assert tags_to_spans(tags, offsets, LABELS) == [(0, 1, "PER"), (1, 4, "PER")]


def test_an_inside_tag_that_continues_nothing_begins_a_span() -> None:
    offsets = [(0, 1), (1, 2), (2, 3), (3, 4)]

    assert tags_to_spans([0, 2, 4, 4], offsets, LABELS) == [(1, 2, "PER"), (2, 4, "LOC")]


def test_a_span_that_ends_within_a_token_is_widened_to_it() -> None:
    offsets = [(0, 3), (4, 9)]

    assert tags_to_spans(spans_to_tags([(0, 6, "ORG")], offsets, LABELS), offsets, LABELS) == [(0, 9, "ORG")]


def _kept(tags: Sequence[int]) -> bool:
    """Whether every I continues a span of its label."""
    read = [OUTSIDE, *(tag for tag in tags if tag != IGNORE_INDEX)]
    return all(tag == OUTSIDE or tag % 2 == 1 or tag in (before, before + 1) for before, tag in pairwise(read))


def _logits(*rows: int, tags: int = 5) -> Tensor:
    return 3 * torch.randn(*rows, tags, generator=torch.Generator().manual_seed(sum(rows)))


def test_no_tags_that_spell_spans_are_likelier_than_those_found() -> None:
    y_BTC = _logits(40, 4)
    sequences = torch.tensor([tags for tags in product(range(5), repeat=4) if _kept(tags)])

    found_BT = decode_tags(y_BTC, torch.ones(40, 4, dtype=torch.bool))

    log_p_BTC = y_BTC.log_softmax(2)
    each_BS = log_p_BTC[:, torch.arange(4), sequences].sum(2)
    assert torch.equal(found_BT, sequences[each_BS.argmax(1)])
    assert not all(_kept(tags) for tags in y_BTC.argmax(2).tolist())


def test_where_each_tokens_likeliest_tag_keeps_the_rule_it_is_the_one_found() -> None:
    y_BTC = _logits(200, 5)
    kept_B = torch.tensor([_kept(tags) for tags in y_BTC.argmax(2).tolist()])

    found_BT = decode_tags(y_BTC, torch.ones(200, 5, dtype=torch.bool))

    assert 0 < kept_B.sum() < 200
    assert torch.equal(found_BT[kept_B], y_BTC.argmax(2)[kept_B])
    assert all(_kept(tags) for tags in found_BT.tolist())


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_tokens_that_stand_for_no_text_are_passed_over_by_the_search(counted: list[bool]) -> None:
    counted_T = torch.tensor(counted)
    y_TC = _logits(len(counted))

    found_T = decode_tags(y_TC[None], counted_T[None])[0]

    alone_T = decode_tags(y_TC[counted_T][None], torch.ones(1, sum(counted), dtype=torch.bool))[0]
    assert torch.equal(found_T[counted_T], alone_T)
    assert (found_T[~counted_T] == IGNORE_INDEX).all()


def test_a_texts_tags_are_the_same_alone_and_in_a_batch_of_longer_ones() -> None:
    y_BTC = _logits(20, 30)
    lengths = torch.arange(11, 31)
    counted_BT = torch.arange(30) < lengths[:20, None]

    found_BT = decode_tags(y_BTC, counted_BT)

    for row, length in enumerate(lengths.tolist()):
        alone_BT = decode_tags(y_BTC[row : row + 1, :length], counted_BT[row : row + 1, :length])
        assert torch.equal(found_BT[row, :length], alone_BT[0])


def test_an_inside_tag_that_continues_nothing_may_change_the_tag_before_it_or_itself() -> None:
    # Of two tokens, O and I are the likeliest tags; B I costs the first text 0.2, and the second 4, more than O B.
    y_BTC = torch.tensor([[[1.0, 0.8, 0.0], [0.0, 0.5, 3.0]], [[1.0, -3.0, 0.0], [0.0, 0.5, 3.0]]])

    found_BT = decode_tags(y_BTC, torch.ones(2, 2, dtype=torch.bool))

    assert found_BT.tolist() == [[1, 2], [0, 1]]

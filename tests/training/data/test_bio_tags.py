"""BIO tags: spans survive the round trip, any tags decode to spans, and Viterbi finds the best valid sequence."""

from collections.abc import Sequence
from itertools import pairwise, product

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.data.bio_tags import IGNORE_INDEX, OUTSIDE, Offset, Span, decode_tags, spans_to_tags, tags_to_spans

LABELS = ("PER", "LOC", "ORG")


@st.composite
def tokenized_spans(draw: st.DrawFn) -> tuple[list[Offset], list[Span]]:
    """Draw tokens of any length with gaps, and spans that begin and end with a token and never overlap."""
    offsets, spans = list[Offset](), list[Span]()
    position, span_start = 0, None
    label = draw(st.sampled_from(LABELS))
    for gap, length, may_begin, may_end in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.booleans(), st.booleans()), max_size=30)
    ):
        position += gap
        offsets.append((position, position + length))
        if span_start is None and may_begin:
            span_start, label = position, draw(st.sampled_from(LABELS))
        position += length
        if span_start is not None and may_end:
            spans.append((span_start, position, label))
            span_start = None
    return offsets, spans


@given(tokenized_spans())
def test_spans_survive_the_round_trip_through_tags(case: tuple[list[Offset], list[Span]]) -> None:
    offsets, spans = case

    assert tags_to_spans(spans_to_tags(spans, offsets, LABELS), offsets, LABELS) == spans


@given(tokenized_spans(), st.data())
def test_special_tokens_change_no_span(case: tuple[list[Offset], list[Span]], data: st.DataObject) -> None:
    offsets, spans = case
    index = data.draw(st.integers(0, len(offsets)))
    position = offsets[index][0] if index < len(offsets) else 200
    with_special = [*offsets[:index], (position, position), *offsets[index:]]

    tags = spans_to_tags(spans, with_special, LABELS)

    assert tags[index] == IGNORE_INDEX
    assert tags_to_spans(tags, with_special, LABELS) == spans


@given(st.lists(st.integers(0, 2 * len(LABELS)), max_size=40))
def test_any_tags_give_spans_in_order_that_never_overlap(tags: list[int]) -> None:
    offsets = [(token, token + 1) for token in range(len(tags))]

    spans = tags_to_spans(tags, offsets, LABELS)

    assert all(start < end for start, end, _ in spans)
    assert all(span[1] <= following[0] for span, following in pairwise(spans))
    assert sum(end - start for start, end, _ in spans) == sum(tag > 0 for tag in tags)


def test_adjacent_spans_of_one_label_stay_apart() -> None:
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


def is_valid(tags: Sequence[int]) -> bool:
    """Whether every I continues a span of its label."""
    unmasked = [OUTSIDE, *(tag for tag in tags if tag != IGNORE_INDEX)]
    return all(
        tag == OUTSIDE or tag % 2 == 1 or tag in (previous, previous + 1) for previous, tag in pairwise(unmasked)
    )


def random_logits(*shape: int, tags: int = 5) -> Tensor:
    return 3 * torch.randn(*shape, tags, generator=torch.Generator().manual_seed(sum(shape)))


def test_no_valid_sequence_is_more_likely_than_the_decoded_one() -> None:
    y_BTC = random_logits(40, 4)
    sequences = torch.tensor([tags for tags in product(range(5), repeat=4) if is_valid(tags)])

    decoded_BT = decode_tags(y_BTC, torch.ones(40, 4, dtype=torch.bool))

    log_p_BTC = y_BTC.log_softmax(2)
    score_BS = log_p_BTC[:, torch.arange(4), sequences].sum(2)
    assert torch.equal(decoded_BT, sequences[score_BS.argmax(1)])
    assert not all(is_valid(tags) for tags in y_BTC.argmax(2).tolist())


def test_a_greedy_sequence_that_is_valid_is_the_decoded_one() -> None:
    y_BTC = random_logits(200, 5)
    valid_B = torch.tensor([is_valid(tags) for tags in y_BTC.argmax(2).tolist()])

    decoded_BT = decode_tags(y_BTC, torch.ones(200, 5, dtype=torch.bool))

    assert 0 < valid_B.sum() < 200
    assert torch.equal(decoded_BT[valid_B], y_BTC.argmax(2)[valid_B])
    assert all(is_valid(tags) for tags in decoded_BT.tolist())


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_masked_tokens_are_skipped_by_viterbi(mask: list[bool]) -> None:
    mask_T = torch.tensor(mask)
    y_TC = random_logits(len(mask))

    decoded_T = decode_tags(y_TC[None], mask_T[None])[0]

    unmasked_T = decode_tags(y_TC[mask_T][None], torch.ones(1, sum(mask), dtype=torch.bool))[0]
    assert torch.equal(decoded_T[mask_T], unmasked_T)
    assert (decoded_T[~mask_T] == IGNORE_INDEX).all()


def test_a_texts_tags_do_not_depend_on_its_batch() -> None:
    y_BTC = random_logits(20, 30)
    lengths = torch.arange(11, 31)
    mask_BT = torch.arange(30) < lengths[:20, None]

    decoded_BT = decode_tags(y_BTC, mask_BT)

    for row, length in enumerate(lengths.tolist()):
        single_BT = decode_tags(y_BTC[row : row + 1, :length], mask_BT[row : row + 1, :length])
        assert torch.equal(decoded_BT[row, :length], single_BT[0])


def test_an_invalid_inside_tag_changes_itself_or_the_tag_before_it() -> None:
    # O I is the greedy sequence, which is invalid. B I costs the first text 0.2 and the second 4; O B costs both 2.5.
    y_BTC = torch.tensor([[[1.0, 0.8, 0.0], [0.0, 0.5, 3.0]], [[1.0, -3.0, 0.0], [0.0, 0.5, 3.0]]])

    decoded_BT = decode_tags(y_BTC, torch.ones(2, 2, dtype=torch.bool))

    assert decoded_BT.tolist() == [[1, 2], [0, 1]]

"""BIO tags: spans of a text as one tag per token, and back (Ramshaw, Marcus, 1995).

Tag 0 is O, outside any span; for label k, tag 1 + 2k is B, the first token of a span, and 2 + 2k is I, a further one.
Knows nothing of nets or tokenizers: a token is its character offsets, a prediction its logits.
"""
# Shapes: B texts, R of them that need Viterbi, T tokens, C tags (1 + 2 for each label).

from collections.abc import Sequence

import torch
from torch import Tensor

# Start and end character (exclusive), label.
Span = tuple[int, int, str]
# Start and end character (exclusive) of a token; equal for a special token, which covers no text.
Offset = tuple[int, int]

OUTSIDE = 0
# The default ignore_index of torch's cross-entropy.
IGNORE_INDEX = -100


def spans_to_tags(spans: Sequence[Span], offsets: Sequence[Offset], labels: Sequence[str]) -> list[int]:
    """Encode spans as a tag per token.

    A token belongs to a span if they share a character: a span that begins or ends within a token is widened to it. Of
    two spans that cover the same token, the earlier has it.

    Args:
        spans: of the text, in any order.
        offsets: of the tokens, in reading order.
        labels: all labels, in the order of their tags.

    Returns:
        A tag for each token; IGNORE_INDEX for special tokens.
    """
    tags = [IGNORE_INDEX if start == end else OUTSIDE for start, end in offsets]
    for span_start, span_end, label in sorted(spans):
        is_inside = False
        for token, (start, end) in enumerate(offsets):
            if tags[token] == OUTSIDE and start < span_end and end > span_start:
                tags[token] = (2 if is_inside else 1) + 2 * labels.index(label)
                is_inside = True
    return tags


def decode_tags(y_BTC: Tensor, mask_BT: Tensor) -> Tensor:
    """Find the most likely valid tag sequence of each text: an I must follow a B or an I of its label.

    A token's own most likely tag may be an I after O, or after another label. Rather than repair that tag, the Viterbi
    algorithm (Forney, 1973) finds the best of all valid sequences, as taggers do that learn no transition scores but
    constrain decoding (He, Lee, Lewis, Zettlemoyer, 2017). Scoring and serving both decode with this function.

    Args:
        y_BTC: logits of the tags, (B, T, C).
        mask_BT: bool (B, T); False for special tokens and padding, which are skipped.

    Returns:
        Tags int64 (B, T), IGNORE_INDEX where masked. A text's tags do not depend on the rest of its batch.
    """
    tags_BT = y_BTC.argmax(2).masked_fill(~mask_BT, OUTSIDE)
    # Where the greedy tags are valid, no sequence is more likely: few texts need Viterbi.
    label_BT = (tags_BT + 1) // 2
    previous_label_BT = torch.nn.functional.pad(label_BT, (1, 0), value=OUTSIDE)[:, :-1]
    invalid_BT = (tags_BT > OUTSIDE) & (tags_BT % 2 == 0) & (previous_label_BT != label_BT)
    invalid_R = invalid_BT.any(1).nonzero().flatten()
    if len(invalid_R):
        tags_BT[invalid_R] = _viterbi_decode(y_BTC[invalid_R], mask_BT[invalid_R])
    return tags_BT.masked_fill(~mask_BT, IGNORE_INDEX)


def _viterbi_decode(y_RTC: Tensor, mask_RT: Tensor) -> Tensor:
    """Find the best path through each text; logits differ from log-probabilities by the same amount on every path."""
    tags_C = torch.arange(y_RTC.shape[2], device=y_RTC.device)
    is_inside_C = (tags_C > OUTSIDE) & (tags_C % 2 == 0)
    forbidden_CC = is_inside_C & ((tags_C[:, None] + 1) // 2 != (tags_C + 1) // 2)
    # The start state is O, so that no text begins with an I.
    score_RC = torch.full_like(y_RTC[:, 0], -torch.inf, dtype=torch.float32)
    score_RC[:, OUTSIDE] = 0
    backpointers = []
    for y_RC, mask_R in zip(y_RTC.float().unbind(1), mask_RT.unbind(1), strict=True):
        best_RC, previous_RC = score_RC[:, :, None].masked_fill(forbidden_CC, -torch.inf).max(1)
        score_RC = torch.where(mask_R[:, None], best_RC + y_RC, score_RC)
        backpointers.append(torch.where(mask_R[:, None], previous_RC, tags_C))
    tag_R1 = score_RC.argmax(1, keepdim=True)
    path = []
    for previous_RC in reversed(backpointers):
        path.append(tag_R1)
        tag_R1 = previous_RC.gather(1, tag_R1)
    return torch.cat(path[::-1], 1)


def tags_to_spans(tags: Sequence[int], offsets: Sequence[Offset], labels: Sequence[str]) -> list[Span]:
    """Decode the tokens' tags to spans; any sequence of tags is accepted.

    An I that continues no span of its label begins one, as in conlleval (Tjong Kim Sang, Buchholz, 2000). Special
    tokens are skipped: they neither end a span nor belong to one.

    Args:
        tags: one for each token.
        offsets: of the tokens, in reading order.
        labels: all labels, in the order of their tags.

    Returns:
        The spans in reading order; no two overlap.
    """
    spans = list[Span]()
    previous_tag = OUTSIDE
    for tag, (start, end) in zip(tags, offsets, strict=True):
        if start == end:
            continue
        if tag > OUTSIDE:
            label = labels[(tag - 1) // 2]
            is_begin = tag % 2 == 1 or previous_tag not in (tag, tag - 1)
            spans.append((start if is_begin else spans.pop()[0], end, label))
        previous_tag = tag
    return spans

"""Spans of a text as one tag for each token, and back: the BIO scheme (Ramshaw, Marcus, 1995).

Tag 0 is O, outside any span; of the k-th label, 1 + 2k is B, the first token of a span, and 2 + 2k is I, a further one.
Knows nothing of nets or tokenisers: a token is where it stands in the text, and what was said of its tags.
"""
# Shapes: B texts, R of them that need a search, T tokens, C tags (1 + 2 for each label).

from collections.abc import Sequence

import torch
from torch import Tensor

# First character, the one after the last, label.
Span = tuple[int, int, str]
# First character of a token, the one after the last; equal for a token that stands for no text, such as a marker.
Offset = tuple[int, int]

OUTSIDE = 0
# What torch's cross-entropy leaves out.
IGNORE_INDEX = -100


def spans_to_tags(spans: Sequence[Span], offsets: Sequence[Offset], labels: Sequence[str]) -> list[int]:
    """Give each token its tag.

    A token belongs to a span if they share a character: a span that begins or ends within a token is widened to it. Of
    two spans that want the same token, the earlier has it.

    Args:
        spans: what stands in the text, in any order.
        offsets: where each token stands, in reading order.
        labels: every label, in the order of their tags.

    Returns:
        A tag for each token, IGNORED for those that stand for no text.
    """
    tags = [IGNORE_INDEX if start == end else OUTSIDE for start, end in offsets]
    for first, last, label in sorted(spans):
        inside = False
        for token, (start, end) in enumerate(offsets):
            if tags[token] == OUTSIDE and start < last and end > first:
                tags[token] = (2 if inside else 1) + 2 * labels.index(label)
                inside = True
    return tags


def decode_tags(y_BTC: Tensor, counted_BT: Tensor) -> Tensor:
    """Find the likeliest tags of each text among those that spell spans: an I continues a B or an I of its label.

    Each token's own likeliest tag may be an I after O, or after another label. Rather than to mend that tag, Viterbi's
    search (Forney, 1973) takes the best of all sequences that keep the rule, as taggers do that learn no transitions
    but know the impossible ones (He, Lee, Lewis, Zettlemoyer, 2017). Scoring and serving both read tags here.

    Args:
        y_BTC: logits of the tags, (B, T, C).
        counted_BT: bool (B, T); False where a token stands for no text. Such a token is passed over.

    Returns:
        Tags int64 (B, T), IGNORED where not counted. A text's tags do not depend on the others of its batch.
    """
    tags_BT = y_BTC.argmax(2).masked_fill(~counted_BT, OUTSIDE)
    # Where the tokens' own likeliest tags keep the rule, no sequence is likelier: few texts need the search.
    label_BT = (tags_BT + 1) // 2
    after_BT = torch.nn.functional.pad(label_BT, (1, 0), value=OUTSIDE)[:, :-1]
    broken_BT = (tags_BT > OUTSIDE) & (tags_BT % 2 == 0) & (after_BT != label_BT)
    search_R = broken_BT.any(1).nonzero().flatten()
    if len(search_R):
        tags_BT[search_R] = _viterbi(y_BTC[search_R], counted_BT[search_R])
    return tags_BT.masked_fill(~counted_BT, IGNORE_INDEX)


def _viterbi(y_RTC: Tensor, counted_RT: Tensor) -> Tensor:
    """The best path through each text; logits serve, as log-probabilities are less by the same amount on every path."""
    tags_C = torch.arange(y_RTC.shape[2], device=y_RTC.device)
    inside_C = (tags_C > OUTSIDE) & (tags_C % 2 == 0)
    barred_CC = inside_C & ((tags_C[:, None] + 1) // 2 != (tags_C + 1) // 2)
    # Before the text is O, so that no text begins with an I.
    best_RC = torch.full_like(y_RTC[:, 0], -torch.inf, dtype=torch.float32)
    best_RC[:, OUTSIDE] = 0
    backs = []
    for y_RC, counted_R in zip(y_RTC.float().unbind(1), counted_RT.unbind(1), strict=True):
        reached_RC, back_RC = best_RC[:, :, None].masked_fill(barred_CC, -torch.inf).max(1)
        best_RC = torch.where(counted_R[:, None], reached_RC + y_RC, best_RC)
        backs.append(torch.where(counted_R[:, None], back_RC, tags_C))
    tag_R1 = best_RC.argmax(1, keepdim=True)
    path = []
    for back_RC in reversed(backs):
        path.append(tag_R1)
        tag_R1 = back_RC.gather(1, tag_R1)
    return torch.cat(path[::-1], 1)


def tags_to_spans(tags: Sequence[int], offsets: Sequence[Offset], labels: Sequence[str]) -> list[Span]:
    """Read the spans off the tokens' tags, whatever a net may say.

    An I that continues no span of its label begins one, as in conlleval (Tjong Kim Sang, Buchholz, 2000). Tokens that
    stand for no text are passed over: they neither end a span nor belong to one.

    Args:
        tags: one for each token.
        offsets: where each token stands, in reading order.
        labels: every label, in the order of their tags.

    Returns:
        The spans in reading order; no two overlap.
    """
    spans = list[Span]()
    before = OUTSIDE
    for tag, (start, end) in zip(tags, offsets, strict=True):
        if start == end:
            continue
        if tag > OUTSIDE:
            label = labels[(tag - 1) // 2]
            begins = tag % 2 == 1 or before not in (tag, tag - 1)
            spans.append((start if begins else spans.pop()[0], end, label))
        before = tag
    return spans

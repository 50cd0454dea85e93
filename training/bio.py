"""Spans of a text as one tag for each token, and back: the BIO scheme (Ramshaw, Marcus, 1995).

Tag 0 is O, outside any span; of the k-th label, 1 + 2k is B, the first token of a span, and 2 + 2k is I, a further one.
Knows nothing of nets or tokenisers: a token is where it stands in the text.
"""

from collections.abc import Sequence

# First character, the one after the last, label.
Span = tuple[int, int, str]
# First character of a token, the one after the last; equal for a token that stands for no text, such as a marker.
Offset = tuple[int, int]

OUTSIDE = 0
# What torch's cross-entropy leaves out.
IGNORED = -100


def tags_of(spans: Sequence[Span], offsets: Sequence[Offset], labels: Sequence[str]) -> list[int]:
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
    tags = [IGNORED if start == end else OUTSIDE for start, end in offsets]
    for first, last, label in sorted(spans):
        inside = False
        for token, (start, end) in enumerate(offsets):
            if tags[token] == OUTSIDE and start < last and end > first:
                tags[token] = (2 if inside else 1) + 2 * labels.index(label)
                inside = True
    return tags


def spans_of(tags: Sequence[int], offsets: Sequence[Offset], labels: Sequence[str]) -> list[Span]:
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

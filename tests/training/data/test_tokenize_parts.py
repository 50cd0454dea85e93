"""The beginning and the end of a long text have the tokens that they have in the whole text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.preprocessing import tokenize_beginning, tokenize_end
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig

TEXTS = ["The good book, and the bad_one; naïve 😀 isn't 3.14 it?", "这本书很好，不好看。\n\n再见 ", "a b  c\t\td"] * 3
TOKENIZERS = {
    f"{kind}{' lowercase' * lowercase}": Tokenizer.fit(
        TokenizerConfig.model_validate({"kind": kind, "vocab_size": 300, "lowercase": lowercase}), TEXTS
    )
    for kind in ("bpe", "words", "characters")
    for lowercase in (False, True)
}
PIECES = st.sampled_from(
    [
        "good",
        "The",
        "bad_one",
        " ",
        "  ",
        "\n",
        ", ",
        ".",
        "😀",
        "这本书",
        "，",
        "3.14",
        "isn't",
        "-",
        "é",
        "İ",
        "_",
        "\u3000",
    ]
)
ROWS = st.lists(PIECES, min_size=1, max_size=400).map("".join)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=ROWS, max_tokens=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_the_first_tokens_of_a_part_are_those_of_the_text(kind: str, text: str, max_tokens: int) -> None:
    tokenizer = TOKENIZERS[kind]
    whole, part = tokenizer.encode(text), tokenize_beginning(tokenizer, text, max_tokens)

    if len(part.ids) >= max_tokens:
        assert part.ids[:max_tokens] == whole.ids[:max_tokens]
        assert part.offsets[:max_tokens] == whole.offsets[:max_tokens]
        assert (len(part.ids) > max_tokens) == (len(whole.ids) > max_tokens)
    else:
        assert part.ids == whole.ids


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=ROWS, max_tokens=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_the_last_tokens_of_a_part_are_those_of_the_text(kind: str, text: str, max_tokens: int) -> None:
    tokenizer = TOKENIZERS[kind]
    whole = tokenizer.encode(text)

    part = tokenize_end(tokenizer, text, max_tokens)

    assert part.ids == (whole.ids[-max_tokens:] or [1])

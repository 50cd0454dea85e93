"""Text to tokens and back: fitted on training texts, kept in the bundle as tokenizer.json, run by `tokenizers`.

The same object reads a training row and a served request.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from training.recipe.spec import TokenizerConfig

PADDING, UNKNOWN, OPEN, CLOSE = "[PAD]", "[UNK]", "[OPEN]", "[CLOSE]"
_SPECIAL = (PADDING, UNKNOWN, OPEN, CLOSE)
# The first so many ids stand for no text.
NUM_SPECIAL_TOKENS = len(_SPECIAL)
# One character, a line break too; and a word or one sign of punctuation, without the white space between.
_CHARACTER, _WORD = r"[\s\S]", r"\w+|[^\w\s]"


@dataclass(frozen=True)
class Encoding:
    """A text as token ids, each with the characters (start, end) that it stands for; markers stand for none."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """Ids 0 padding, 1 unknown, 2 and 3 the marks around a predicate; then the vocabulary."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner

    @classmethod
    def fit(cls, tokens: TokenizerConfig, texts: Iterable[str]) -> "Tokenizer":
        """Build the vocabulary from training texts alone."""
        if tokens.kind == "bpe":
            inner = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            inner.decoder = decoders.ByteLevel()
        else:
            inner = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(_SPECIAL)}, UNKNOWN))
            pattern = Regex(_CHARACTER if tokens.kind == "characters" else _WORD)
            inner.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
            inner.decoder = decoders.Fuse() if tokens.kind == "characters" else decoders.WordPiece(prefix="")
        if tokens.lowercase:
            inner.normalizer = normalizers.Lowercase()
        if tokens.kind == "bpe":
            trainer = trainers.BpeTrainer(
                vocab_size=tokens.vocab_size,
                special_tokens=list(_SPECIAL),
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
            inner.train_from_iterator(texts, trainer)
        else:
            inner.model = models.WordLevel(_build_vocab(inner, tokens, texts), UNKNOWN)
        return cls(inner)

    @classmethod
    def from_json(cls, content: str) -> "Tokenizer":
        """Read the content of a tokenizer.json."""
        return cls(tokenizers.Tokenizer.from_str(content))

    def to_json(self) -> str:
        """What tokenizer.json holds."""
        return str(self._inner.to_str())

    def __len__(self) -> int:
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> Encoding:
        """Cut a text into tokens."""
        found = self._inner.encode(text, add_special_tokens=False)
        return Encoding(found.ids, found.offsets)

    def encode_marked(self, text: str, start: int, end: int) -> Encoding:
        """Cut a text into tokens, with marks around its characters start..end, the predicate."""
        ids, offsets = [], []
        for piece, at, mark in ((text[:start], 0, 2), (text[start:end], start, 3), (text[end:], end, None)):
            part = self.encode(piece)
            ids += part.ids
            offsets += [(a + at, b + at) for a, b in part.offsets]
            if mark is not None:
                ids.append(mark)
                offsets.append((0, 0))
        return Encoding(ids, offsets)

    def decode(self, ids: list[int]) -> str:
        """Put tokens together again."""
        return str(self._inner.decode(ids))


def _build_vocab(inner: tokenizers.Tokenizer, tokens: TokenizerConfig, texts: Iterable[str]) -> dict[str, int]:
    """The special tokens, then the most frequent of the rest; equal counts in order of the text."""
    counts: Counter[str] = Counter()
    for text in texts:
        if inner.normalizer:
            text = inner.normalizer.normalize_str(text)
        counts.update(piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(text))
    kept = [piece for piece, count in counts.most_common() if count >= tokens.min_frequency and piece not in _SPECIAL]
    return {piece: index for index, piece in enumerate([*_SPECIAL, *kept[: tokens.vocab_size - len(_SPECIAL)]])}

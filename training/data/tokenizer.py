"""Tokenizer: text to token ids and back; fitted on training texts, saved in the bundle as tokenizer.json.

The same object encodes a training row and a served request; the Hugging Face `tokenizers` library does the work.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from training.recipe.spec import TokenizerConfig

PAD_TOKEN, UNK_TOKEN, PREDICATE_START, PREDICATE_END = "[PAD]", "[UNK]", "[OPEN]", "[CLOSE]"
_SPECIAL_TOKENS = (PAD_TOKEN, UNK_TOKEN, PREDICATE_START, PREDICATE_END)
# Ids below this are special tokens, which cover no text.
NUM_SPECIAL_TOKENS = len(_SPECIAL_TOKENS)
UNK_ID = _SPECIAL_TOKENS.index(UNK_TOKEN)
_PREDICATE_START_ID, _PREDICATE_END_ID = map(_SPECIAL_TOKENS.index, (PREDICATE_START, PREDICATE_END))
# Any one character, line breaks too; a word or one punctuation mark, without the whitespace between.
_PATTERNS = {"characters": r"[\s\S]", "words": r"\w+|[^\w\s]"}


@dataclass(frozen=True)
class Encoding:
    """The token ids of a text, and each token's start and end character; equal for special tokens."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """Token ids: 0 padding, 1 unknown, 2 and 3 around a predicate, then the vocabulary."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner

    @classmethod
    def fit(cls, config: TokenizerConfig, texts: Iterable[str]) -> "Tokenizer":
        """Build the vocabulary from training texts."""
        special_vocab = {token: index for index, token in enumerate(_SPECIAL_TOKENS)}
        if config.kind == "bpe":
            inner = _build(config.kind, config.lowercase, {}, [])
            trainer = trainers.BpeTrainer(
                vocab_size=config.vocab_size,
                special_tokens=list(_SPECIAL_TOKENS),
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
            inner.train_from_iterator(texts, trainer)
        else:
            inner = _build(config.kind, config.lowercase, special_vocab, [])
            inner.model = models.WordLevel(_build_vocab(inner, config, texts), UNK_TOKEN)
        return cls(inner)

    @classmethod
    def from_json(cls, content: str) -> "Tokenizer":
        """Read the content of a tokenizer.json.

        The tokenizer is built anew from the vocabulary: the library's own reader takes programs of replacements and
        paddings of any length, and ends the process at some of them.

        Raises:
            ValueError: it is not what `to_json` writes.
        """
        try:
            document = json.loads(content)
            kind = _find_kind(document)
            model = document["model"]
            vocab, merges = model["vocab"], [tuple(merge) for merge in model.get("merges", ())]
            _check_vocab(vocab, merges)
            inner = _build(kind, document["normalizer"] is not None, vocab, merges)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        # A newer library may write more keys, of the same meaning.
        if not _is_subset(document, json.loads(inner.to_str())):
            raise ValueError("it has settings that Shoal's tokenizers do not have")
        return cls(inner)

    def to_json(self) -> str:
        """The content of tokenizer.json."""
        return str(self._inner.to_str())

    def __len__(self) -> int:
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> Encoding:
        """Tokenize a text, without special tokens."""
        encoding = self._inner.encode(text, add_special_tokens=False)
        return Encoding(encoding.ids, encoding.offsets)

    def encode_with_predicate(self, text: str, start: int, end: int) -> Encoding:
        """Tokenize a text, with special tokens around its predicate, the characters start..end (exclusive)."""
        ids, offsets = [], []
        for piece, piece_start, special_id in (
            (text[:start], 0, _PREDICATE_START_ID),
            (text[start:end], start, _PREDICATE_END_ID),
            (text[end:], end, None),
        ):
            encoding = self.encode(piece)
            ids += encoding.ids
            offsets += [(piece_start + first, piece_start + last) for first, last in encoding.offsets]
            if special_id is not None:
                ids.append(special_id)
                offsets.append((0, 0))
        return Encoding(ids, offsets)

    def decode(self, ids: list[int]) -> str:
        """Convert token ids to text."""
        return str(self._inner.decode(ids))


def _build(kind: str, lowercase: bool, vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """Build a tokenizer of one of the kinds of TokenizerConfig."""
    if kind == "bpe":
        inner = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=UNK_TOKEN))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        if vocab:
            inner.add_special_tokens(list(_SPECIAL_TOKENS))
    else:
        inner = tokenizers.Tokenizer(models.WordLevel(vocab, UNK_TOKEN))
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(_PATTERNS[kind]), "removed", invert=True)
        inner.decoder = decoders.Fuse() if kind == "characters" else decoders.WordPiece(prefix="")
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    return inner


def _find_kind(document: Any) -> str:
    """Tell the kind of a tokenizer.json by the patterns that its words are split at."""
    if document["model"]["type"] == "BPE":
        return "bpe"
    pattern = document["pre_tokenizer"]["pattern"]["Regex"]
    for kind, known in _PATTERNS.items():
        if pattern == known:
            return kind
    raise ValueError(f"it splits texts at {pattern!r:.100}")


def _check_vocab(vocab: Any, merges: list[tuple[Any, ...]]) -> None:
    if not isinstance(vocab, dict) or sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError("the ids of its tokens are not 0, 1, 2, ...")
    if any(vocab.get(token) != index for index, token in enumerate(_SPECIAL_TOKENS)):
        raise ValueError(f"its first tokens are not {', '.join(_SPECIAL_TOKENS)}")
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            raise ValueError(f"it merges {merge!r:.100}, which are not two tokens that make one")


def _is_subset(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal but for keys that only the other has."""
    if isinstance(value, dict) and isinstance(other, dict):
        return all(key in other and _is_subset(child, other[key]) for key, child in value.items())
    return bool(value == other and type(value) is type(other))


def _build_vocab(inner: tokenizers.Tokenizer, config: TokenizerConfig, texts: Iterable[str]) -> dict[str, int]:
    """Number the special tokens, then the most frequent others; equal counts in order of the texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        if inner.normalizer:
            text = inner.normalizer.normalize_str(text)
        counts.update(token for token, _ in inner.pre_tokenizer.pre_tokenize_str(text))
    frequent = [
        token for token, count in counts.most_common() if count >= config.min_frequency and token not in _SPECIAL_TOKENS
    ]
    vocab = [*_SPECIAL_TOKENS, *frequent[: config.vocab_size - len(_SPECIAL_TOKENS)]]
    return {token: index for index, token in enumerate(vocab)}

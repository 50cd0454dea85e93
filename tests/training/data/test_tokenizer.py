"""tokenizer.json is read as what Shoal writes, and as nothing else."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig

TEXTS = ["Good bad, fine good!", "bad\nbad 好"]
KINDS = ["bpe", "words", "characters"]


def fit(kind: str, lowercase: bool = False) -> Tokenizer:
    return Tokenizer.fit(TokenizerConfig.model_validate({"kind": kind, "lowercase": lowercase}), TEXTS)


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_that_is_read_again_encodes_and_decodes_the_same(kind: str, lowercase: bool) -> None:
    tokenizer = fit(kind, lowercase)

    again = Tokenizer.from_json(tokenizer.to_json())

    assert again.to_json() == tokenizer.to_json()
    assert len(again) == len(tokenizer)
    for text in [*TEXTS, "an unknown word", "[PAD] [UNK]", ""]:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)


def set_key(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        target = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = to

    return change


REPLACEMENTS = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"}


@pytest.mark.parametrize("kind", ["bpe", "words"])
@pytest.mark.parametrize(
    "change",
    [
        set_key("padding", to={"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_id": 0}),
        set_key("truncation", to={"max_length": 0, "strategy": "LongestFirst", "stride": 9, "direction": "Right"}),
        set_key("post_processor", to={"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        set_key("normalizer", to={"type": "Sequence", "normalizers": [REPLACEMENTS] * 30}),
        set_key("normalizer", to={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        set_key("pre_tokenizer", to={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed"}),
        set_key("pre_tokenizer", to=None),
        set_key("decoder", to={"type": "Replace", "pattern": {"String": ""}, "content": "a" * 1000}),
        set_key("added_tokens", to=[{"id": 2**31, "content": "a", "special": True}]),
        set_key("model", "vocab", to={"[PAD]": 0, "[UNK]": 1, "[OPEN]": 2, "[CLOSE]": 3, "a": 2**32 - 1}),
        set_key("model", "vocab", to={"a": 0}),
        set_key("model", "vocab", to=["a"]),
        set_key("model", "unk_token", to="nothing"),
        set_key("model", "type", to="WordPiece"),
        set_key("model", "merges", to=[["a", "b"]]),
        set_key("model", "merges", to="ab"),
        set_key("model", to=None),
        set_key("version", to="2.0"),
        lambda document: document.pop("model"),
        lambda document: document.clear(),
    ],
)
def test_a_tokenizer_with_other_settings_is_refused(kind: str, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(fit(kind).to_json())
    changed = copy.deepcopy(document)
    change(changed)

    with pytest.raises(ValueError, match=r"."):
        Tokenizer.from_json(json.dumps(changed))


@pytest.mark.parametrize("content", ["", "null", "[]", "3", "[" * 100_000, '{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Tokenizer.from_json(content)


def test_a_setting_that_is_not_known_is_refused() -> None:
    document = json.loads(fit("words").to_json()) | {"new_setting": True}

    with pytest.raises(ValueError, match="settings that Shoal's tokenizers do not have"):
        Tokenizer.from_json(json.dumps(document))

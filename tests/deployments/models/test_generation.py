"""Texts that grow: whole characters, the same text with and without streaming, and work that stops."""

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deployments.control.openapi import model_paths
from deployments.models.generation import IncrementalDetokenizer, TextGenerator
from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.predict.outputs import TextRequest
from deployments.specs.model import Deployment, Endpoint
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import TextInput, TextOutput

TEXTS = ["这本书很好，不好看", "naïve 😀 good book .", "She gave him a book ."] * 2
BPE, CHARACTERS, WORDS = (
    Tokenizer.fit(TokenizerConfig(kind=kind, vocab_size=300), TEXTS)  # type: ignore[arg-type]
    for kind in ("bpe", "characters", "words")
)
WINDOW = 8

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def writer(tokeniser: Tokenizer, passes: list[int]) -> TextGenerator:
    torch.manual_seed(0)
    # Each token's logits follow from the one before it.
    net = nn.Embedding(len(tokeniser), len(tokeniser))

    async def forward(x: Rows) -> Outputs:
        assert isinstance(x, np.ndarray)
        passes.append(len(x))
        await asyncio.sleep(0)
        with torch.inference_mode():
            return (net(torch.from_numpy(x)).numpy(),)

    return TextGenerator(forward, tokeniser, WINDOW)


@pytest.mark.parametrize("tokeniser", [BPE, CHARACTERS, WORDS], ids=["bpe", "characters", "words"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_add_up_to_what_the_whole_decodes_to(tokeniser: Tokenizer, data: st.DataObject) -> None:
    tokens = st.lists(st.integers(4, len(tokeniser) - 1), min_size=1, max_size=20)
    prompt, ids = data.draw(tokens), data.draw(tokens)
    spelling = IncrementalDetokenizer(tokeniser, prompt)

    pieces = [spelling.add(token, last=place == len(ids) - 1) for place, token in enumerate(ids)]

    assert "".join(pieces) == tokeniser.decode(prompt + ids)[len(tokeniser.decode(prompt)) :]


def test_a_piece_holds_whole_characters_though_a_token_may_be_a_third_of_one() -> None:
    ids = BPE.encode("很😀ï").ids
    spelling = IncrementalDetokenizer(BPE, BPE.encode("a").ids)

    pieces = [spelling.add(token) for token in ids]

    assert len(ids) > 3
    assert [piece for piece in pieces if piece] == ["很", "😀", "ï"]


async def test_the_same_seed_writes_the_same_text_streamed_or_not() -> None:
    made, prompts = writer(BPE, []), [BPE.encode("这本书"), BPE.encode("good")]
    request = TextRequest(inputs=[], max_tokens=40, temperature=1.0, seed=3)

    whole = await made.generate(prompts, request)
    texts = ["", ""]
    async for row, text in made.stream(prompts, request):
        texts[row] += text

    assert [{"text": text} for text in texts] == whole
    assert texts[0] != texts[1]


async def test_rows_grow_side_by_side() -> None:
    rows = [
        row
        async for row, _ in writer(CHARACTERS, []).stream([CHARACTERS.encode("a")] * 2, TextRequest([], max_tokens=9))
    ]

    assert rows[:4] == [0, 1, 0, 1]


async def test_closing_it_stops_the_work_within_a_token() -> None:
    passes: list[int] = []
    async with contextlib.aclosing(
        writer(CHARACTERS, passes).stream([CHARACTERS.encode("a")] * 3, TextRequest([], max_tokens=1000))
    ) as pieces:
        await anext(pieces)
        before = len(passes)
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(passes) <= before + 3


async def test_a_row_that_fails_ends_the_others_too() -> None:
    made, passes = writer(CHARACTERS, []), []

    async def forward(x: Rows) -> Outputs:
        assert isinstance(x, np.ndarray)
        passes.append(1)
        if len(passes) == 5:
            raise ZeroDivisionError
        await asyncio.sleep(0)
        return (np.zeros((1, x.shape[1], len(CHARACTERS)), np.float32),)

    made._forward = forward
    with pytest.raises(ZeroDivisionError):
        await made.generate([BPE.encode("a")] * 2, TextRequest([], max_tokens=1000))

    assert len(passes) < 10


def test_the_schema_says_that_a_text_can_be_streamed(tmp_path: Path) -> None:
    about = ModelInfo(
        name="writer", task="text-generation", input_schema=TextInput(max_tokens=8), output_schema=TextOutput()
    )
    rows = torch.randint(4, len(BPE), (2, 4))
    net = nn.Embedding(len(BPE), len(BPE))
    manifest = save_bundle(tmp_path / "b", net, inputs=rows, info=about, tokenizer=BPE, example="good")
    deployment = Deployment(endpoint=Endpoint(name="writer", version=1, digest="", uri=""))

    paths = model_paths(deployment, manifest, {"inputs": ["good"]})
    predict = paths["/v2/models/writer/predict"]["post"]

    schema = predict["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["stream"] == {"type": "boolean", "default": False}
    assert predict["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}

"""Text generation: complete characters, the same text with and without streaming, and work that stops."""

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deployments.control.operations import build_model_paths
from deployments.models.generation import MAX_CONCURRENT_ROWS, IncrementalDetokenizer, TextGenerator
from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.predict.requests import TextRequest
from deployments.server.scheduling import Scheduling
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
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
CONTEXT_LENGTH = 8

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def make_generator(tokenizer: Tokenizer, passes: list[int]) -> TextGenerator:
    torch.manual_seed(0)
    # Each token's logits depend on the token before it only.
    net = nn.Embedding(len(tokenizer), len(tokenizer))

    async def forward(x: Rows, scheduling: Scheduling | None = None) -> Outputs:
        assert isinstance(x, np.ndarray)
        passes.append(len(x))
        await asyncio.sleep(0)
        with torch.inference_mode():
            return (net(torch.from_numpy(x)).numpy(),)

    return TextGenerator(forward, tokenizer, CONTEXT_LENGTH)


@pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS, WORDS], ids=["bpe", "characters", "words"])
@given(data=st.data())
@settings(max_examples=150)
def test_chunks_join_to_the_text_of_all_tokens(tokenizer: Tokenizer, data: st.DataObject) -> None:
    tokens = st.lists(st.integers(4, len(tokenizer) - 1), min_size=1, max_size=20)
    prompt, ids = data.draw(tokens), data.draw(tokens)
    detokenizer = IncrementalDetokenizer(tokenizer, prompt)

    chunks = [detokenizer.add(token, is_last=index == len(ids) - 1) for index, token in enumerate(ids)]

    assert "".join(chunks) == tokenizer.decode(prompt + ids)[len(tokenizer.decode(prompt)) :]


def test_a_chunk_has_complete_characters_though_a_token_may_be_a_third_of_one() -> None:
    ids = BPE.encode("很😀ï").ids
    detokenizer = IncrementalDetokenizer(BPE, BPE.encode("a").ids)

    chunks = [detokenizer.add(token) for token in ids]

    assert len(ids) > 3
    assert [chunk for chunk in chunks if chunk] == ["很", "😀", "ï"]


async def test_the_same_seed_gives_the_same_text_streamed_or_not() -> None:
    generator, prompts = make_generator(BPE, []), [BPE.encode("这本书"), BPE.encode("good")]
    request = TextRequest(inputs=[], max_tokens=40, temperature=1.0, seed=3)

    predictions = await generator.generate(prompts, request)
    texts = ["", ""]
    async for row, text in generator.stream(prompts, request):
        texts[row] += text

    assert [{"text": text} for text in texts] == predictions
    assert texts[0] != texts[1]


async def test_rows_are_generated_concurrently() -> None:
    chunks = make_generator(CHARACTERS, []).stream([CHARACTERS.encode("a")] * 2, TextRequest([], max_tokens=9))
    rows = [row async for row, _ in chunks]

    assert rows[:4] == [0, 1, 0, 1]


async def test_a_reader_that_stops_reading_stops_its_own_rows_only() -> None:
    passes: list[int] = []
    generator = make_generator(CHARACTERS, passes)
    async with contextlib.aclosing(
        generator.stream([CHARACTERS.encode("a")] * 3, TextRequest([], max_tokens=1000))
    ) as chunks:
        await anext(chunks)
        for _ in range(2000):
            await asyncio.sleep(0)
        # Of 3,000 tokens: those that wait to be read, and one on the way for each row.
        assert len(passes) < 80

        other = await generator.generate([CHARACTERS.encode("a")], TextRequest([], max_tokens=200))

    assert len(other[0]["text"]) == 200


async def test_a_request_of_many_rows_leaves_room_for_others() -> None:
    concurrent, peak = 0, 0

    async def forward(x: Rows, scheduling: Scheduling | None = None) -> Outputs:
        nonlocal concurrent, peak
        concurrent += 1
        peak = max(peak, concurrent)
        await asyncio.sleep(0)
        concurrent -= 1
        return (np.zeros((1, len(x[0]), len(CHARACTERS)), np.float32),)

    generator = TextGenerator(forward, CHARACTERS, CONTEXT_LENGTH)
    texts = await generator.generate([CHARACTERS.encode("a")] * 500, TextRequest([], max_tokens=2))

    assert len(texts) == 500
    assert peak == MAX_CONCURRENT_ROWS


async def test_closing_the_stream_stops_the_work_within_a_token() -> None:
    passes: list[int] = []
    async with contextlib.aclosing(
        make_generator(CHARACTERS, passes).stream([CHARACTERS.encode("a")] * 3, TextRequest([], max_tokens=1000))
    ) as chunks:
        await anext(chunks)
        passes_before = len(passes)
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(passes) <= passes_before + 3


async def test_a_row_that_fails_cancels_the_others() -> None:
    generator, passes = make_generator(CHARACTERS, []), []

    async def forward(x: Rows, scheduling: Scheduling | None = None) -> Outputs:
        assert isinstance(x, np.ndarray)
        passes.append(1)
        if len(passes) == 5:
            raise ZeroDivisionError
        await asyncio.sleep(0)
        return (np.zeros((1, x.shape[1], len(CHARACTERS)), np.float32),)

    generator._forward = forward
    with pytest.raises(ZeroDivisionError):
        await generator.generate([BPE.encode("a")] * 2, TextRequest([], max_tokens=1000))

    assert len(passes) < 10


def test_the_openapi_operation_of_a_language_model_has_the_stream(tmp_path: Path) -> None:
    info = ModelInfo(
        name="writer", task="text-generation", input_schema=TextInput(max_tokens=8), output_schema=TextOutput()
    )
    rows = torch.randint(4, len(BPE), (2, 4))
    net = nn.Embedding(len(BPE), len(BPE))
    manifest = save_bundle(tmp_path / "b", net, inputs=rows, info=info, tokenizer=BPE, example="good")
    deployment = ModelDeployment(endpoint=ModelEndpoint(name="writer", version=1, digest="", uri=""))

    paths = build_model_paths(deployment, manifest, {"inputs": ["good"]})
    predict = paths["/v2/models/writer/predict"]["post"]

    schema = predict["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["stream"] == {"type": "boolean", "default": False}
    assert predict["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}

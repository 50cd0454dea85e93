"""Generation: what no single forward pass gives. Texts are continued token by token, pictures decoded from noise.

Request walk: codec -> [generation.py] -> batching.py, once a token -> codec
Each token of each text is one row in the batcher: texts of many callers go through the net together.
"""
# Shapes: T tokens of one text, V vocabulary, Z latent numbers.

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.predict.outputs import ImageRequest, TextRequest, encode_png
from training.data.tokenizer import NUM_SPECIAL_TOKENS, Encoding, Tokenizer

Forward = Callable[[Rows], Awaitable[Outputs]]
TextChunk = tuple[int, str]
"""A row's number, and the next of its text."""

# What a decoder writes for bytes that are no whole character, or not yet.
REPLACEMENT_CHARACTER = "\ufffd"


class TextGenerator:
    """Continues texts with one language model."""

    def __init__(self, forward: Forward, tokeniser: Tokenizer, window: int) -> None:
        self._forward, self._tokeniser, self._window = forward, tokeniser, window

    async def generate(self, prompts: list[Encoding], request: TextRequest) -> list[dict[str, Any]]:
        """Continue each prompt by request.max_tokens tokens; the same seed gives the same texts."""
        texts: list[list[str]] = [[] for _ in prompts]
        async with contextlib.aclosing(self.stream(prompts, request)) as pieces:
            async for row, text in pieces:
                texts[row].append(text)
        return [{"text": "".join(parts)} for parts in texts]

    async def stream(self, prompts: list[Encoding], request: TextRequest) -> AsyncGenerator[TextChunk]:
        """Give each continuation piece by piece, as its tokens are computed; closing it stops the work."""
        # Unbounded, since it holds no more than the answer: a slow reader does not hold up the batch.
        found: asyncio.Queue[TextChunk | None] = asyncio.Queue()

        async def continue_(row: int, prompt: Encoding) -> None:
            async for text in self._continue(prompt.ids, request, row):
                found.put_nowait((row, text))

        rows = [asyncio.create_task(continue_(*each)) for each in enumerate(prompts)]
        done = asyncio.gather(*rows)
        done.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (piece := await found.get()) is not None:
                yield piece
            await done
        finally:
            for row in rows:
                row.cancel()
            await asyncio.gather(done, *rows, return_exceptions=True)

    async def _continue(self, prompt: list[int], request: TextRequest, index: int) -> AsyncGenerator[str]:
        generator = torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed((request.seed + index) % 2**63)
        ids, spelling = list(prompt), IncrementalDetokenizer(self._tokeniser, prompt)
        for left in range(request.max_tokens - 1, -1, -1):
            (y_1TV,) = await self._forward(np.array([ids[-self._window :]]))
            ids.append(_sample_token(torch.from_numpy(y_1TV[0, -1]), request.temperature, generator))
            if text := spelling.add(ids[-1], last=left == 0):
                yield text


class IncrementalDetokenizer:
    """Turns tokens into text as they come, whole characters only: a token may be a part of one.

    A token's text may depend on the one before it, so that what is decoded begins with tokens that were told already.
    """

    def __init__(self, tokeniser: Tokenizer, prompt: list[int]) -> None:
        self._tokeniser = tokeniser
        self._ids, self._told = list(prompt), len(prompt)

    def add(self, token: int, *, last: bool = False) -> str:
        """Take the next token; returns what can be told now, which is all of it after the last."""
        self._ids.append(token)
        before = self._tokeniser.decode(self._ids[: self._told])
        text = self._tokeniser.decode(self._ids)[len(before) :]
        if not text or (text.endswith(REPLACEMENT_CHARACTER) and not last):
            return ""
        self._ids, self._told = self._ids[self._told :], len(self._ids) - self._told
        return text


def _sample_token(y_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    # Padding, unknown and marks are nothing that could be read.
    y_V = torch.cat([torch.full((NUM_SPECIAL_TOKENS,), -torch.inf), y_V[NUM_SPECIAL_TOKENS:].float()])
    if temperature == 0:
        return int(y_V.argmax())
    return int(torch.multinomial((y_V / temperature).softmax(0), 1, generator=generator))


def sample_images(decoder: nn.Module, latent: int, request: ImageRequest, device: str) -> list[dict[str, Any]]:
    """Decode request.samples pictures from codes drawn from N(0, 1)."""
    generator = torch.Generator()
    if request.seed is None:
        generator.seed()
    else:
        generator.manual_seed(request.seed)
    z = torch.randn(request.samples, latent, generator=generator)
    with torch.inference_mode():
        pictures = decoder(z.to(device)).cpu()
    return [{"sample": encode_png(picture)} for picture in pictures]

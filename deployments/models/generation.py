"""Generation: texts, token by token, in a forward pass for each; images, decoded from random latent vectors.

Request walk: served_model.py -> [generation.py] -> batching.py
Each token of each text is one row of the batcher, so the texts of many callers share forward passes.
"""
# Shapes: T tokens of one text, V vocabulary, Z latent size.

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployments.access.limits.accounts import CURRENT_CHARGE
from deployments.access.usage.request_usage import CURRENT_USAGE
from deployments.errors import DeadlineExceeded
from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.predict.events import TextChunk
from deployments.protocols.predict.outputs import encode_base64_png
from deployments.protocols.predict.requests import ImageRequest, TextRequest
from deployments.server.scheduling import Scheduling
from training.data.tokenizer import NUM_SPECIAL_TOKENS, Encoding, Tokenizer

Forward = Callable[[Rows, Scheduling | None], Awaitable[Outputs]]

# Chunks that a reader has not read yet; then its rows wait.
MAX_QUEUED_CHUNKS = 64
# Rows of one request that are continued at a time; a pass has 64.
MAX_CONCURRENT_ROWS = 32
# Images of one request that are decoded at a time, since a net's inner layers take many times their size.
MAX_CONCURRENT_SAMPLES = 8
# What a tokenizer decodes bytes to that are not, or not yet, a complete character.
REPLACEMENT_CHARACTER = "\ufffd"


class TextGenerator:
    """Continues texts with a language model."""

    def __init__(self, forward: Forward, tokenizer: Tokenizer, context_length: int) -> None:
        """Make a generator.

        Args:
            forward: the batcher's.
            tokenizer: the model's.
            context_length: number of tokens that the net takes; older ones are dropped.
        """
        self._forward, self._tokenizer, self._context_length = forward, tokenizer, context_length
        self.generated_tokens = 0

    async def generate(
        self, prompts: list[Encoding], request: TextRequest, scheduling: Scheduling | None = None
    ) -> list[dict[str, Any]]:
        """Continue each prompt by request.max_tokens tokens; the same seed gives the same texts."""
        texts: list[list[str]] = [[] for _ in prompts]
        async with contextlib.aclosing(self.stream(prompts, request, scheduling)) as chunks:
            async for row, text in chunks:
                texts[row].append(text)
        return [{"text": "".join(parts)} for parts in texts]

    async def stream(
        self, prompts: list[Encoding], request: TextRequest, scheduling: Scheduling | None = None
    ) -> AsyncGenerator[TextChunk]:
        """Yield each continuation in chunks, as its tokens are computed; closing the generator stops the work."""
        # A slow reader stops its own rows, whose next tokens are not asked for, and nobody else's.
        chunks: asyncio.Queue[TextChunk | None] = asyncio.Queue(MAX_QUEUED_CHUNKS)
        # A request of many rows would fill every pass, ahead of all that come later.
        slots = asyncio.Semaphore(MAX_CONCURRENT_ROWS)

        async def continue_row(row: int, prompt: Encoding) -> None:
            async with slots:
                async for text in self._continue(prompt.ids, request, row, scheduling):
                    await chunks.put(TextChunk(row, text))

        async def continue_rows() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for row, prompt in enumerate(prompts):
                        group.create_task(continue_row(row, prompt))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                if not is_closed:
                    await chunks.put(None)

        is_closed = False
        task = asyncio.create_task(continue_rows())
        try:
            while (chunk := await chunks.get()) is not None:
                yield chunk
            await task
        finally:
            is_closed = True
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _continue(
        self, prompt: list[int], request: TextRequest, row: int, scheduling: Scheduling | None
    ) -> AsyncGenerator[str]:
        random = _make_random_generator(None if request.seed is None else (request.seed + row) % 2**63)
        usage = CURRENT_USAGE.get()
        charge = CURRENT_CHARGE.get()
        ids, detokenizer = list(prompt), IncrementalDetokenizer(self._tokenizer, prompt)
        for remaining in range(request.max_tokens - 1, -1, -1):
            (y_1TV,) = await self._forward(np.array([ids[-self._context_length :]]), scheduling)
            self.generated_tokens += 1
            if usage is not None:
                usage.tokens_out += 1
            if charge is not None:
                charge.generated += 1
            ids.append(_sample_token(torch.from_numpy(y_1TV[0, -1]), request.temperature, random))
            if text := detokenizer.add(ids[-1], is_last=remaining == 0):
                yield text


class IncrementalDetokenizer:
    """Decodes tokens as they come, to complete characters only: a token may be a part of one.

    A token's text may depend on the tokens before it, so decoding starts with tokens whose text was already returned.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ids, self._num_decoded = list(prompt), len(prompt)

    def add(self, token: int, *, is_last: bool = False) -> str:
        """Add the next token; returns the text that is complete now, or after the last token, all of the rest."""
        self._ids.append(token)
        decoded = self._tokenizer.decode(self._ids[: self._num_decoded])
        text = self._tokenizer.decode(self._ids)[len(decoded) :]
        if not text or (text.endswith(REPLACEMENT_CHARACTER) and not is_last):
            return ""
        self._ids, self._num_decoded = self._ids[self._num_decoded :], len(self._ids) - self._num_decoded
        return text


def _make_random_generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _sample_token(y_V: Tensor, temperature: float, random: torch.Generator) -> int:
    # Padding, unknown and other special tokens have no text.
    y_V = torch.cat([torch.full((NUM_SPECIAL_TOKENS,), -torch.inf), y_V[NUM_SPECIAL_TOKENS:].float()])
    if temperature == 0:
        return int(y_V.argmax())
    return int(torch.multinomial((y_V / temperature).softmax(0), 1, generator=random))


def sample_images(
    decoder: nn.Module, latent_size: int, request: ImageRequest, device: str, scheduling: Scheduling
) -> list[dict[str, Any]]:
    """Decode request.samples images from latent codes drawn from N(0, 1); takes long, so it belongs into a thread.

    Raises:
        DeadlineExceeded: the deadline is past; nobody waits for the rest.
    """
    z = torch.randn(request.samples, latent_size, generator=_make_random_generator(request.seed))
    samples: list[dict[str, Any]] = []
    for part in z.split(MAX_CONCURRENT_SAMPLES):
        if scheduling.remaining_s() <= 0:
            raise DeadlineExceeded(f"no response within {scheduling.timeout_s:g} s; set a longer timeout, or send less")
        with torch.inference_mode():
            images = decoder(part.to(device)).cpu()
        samples += [{"sample": encode_base64_png(image)} for image in images]
    return samples

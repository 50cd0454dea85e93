"""Generation: what no single forward pass gives. Texts are continued token by token, pictures decoded from noise.

Request walk: codec -> [generation.py] -> batching.py, once a token -> codec
Each token of each text is one row in the batcher: texts of many callers go through the net together.
"""
# Shapes: T tokens of one text, V vocabulary, Z latent numbers.

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployments.codec.answers import OfPictures, OfText, png
from deployments.codec.arrays import Outputs, Rows
from training.tokens import SPECIAL, Encoded, Tokeniser

Forward = Callable[[Rows], Awaitable[Outputs]]


class Writer:
    """Continues texts with one language model."""

    def __init__(self, forward: Forward, tokeniser: Tokeniser, window: int) -> None:
        self._forward, self._tokeniser, self._window = forward, tokeniser, window

    async def write(self, prompts: list[Encoded], request: OfText) -> list[dict[str, Any]]:
        """Continue each prompt by request.max_tokens tokens; the same seed gives the same texts."""
        texts = [self._continue(prompt.ids, request, index) for index, prompt in enumerate(prompts)]
        return [{"text": text} for text in await asyncio.gather(*texts)]

    async def _continue(self, prompt: list[int], request: OfText, index: int) -> str:
        generator = torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed((request.seed + index) % 2**63)
        ids = list(prompt)
        for _ in range(request.max_tokens):
            (y_1TV,) = await self._forward(np.array([ids[-self._window :]]))
            ids.append(_drawn(torch.from_numpy(y_1TV[0, -1]), request.temperature, generator))
        # A token's text may depend on the one before it, so that only the whole can be told.
        before, whole = self._tokeniser.decode(prompt), self._tokeniser.decode(ids)
        return whole[len(before) :]


def _drawn(y_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    # Padding, unknown and marks are nothing that could be read.
    y_V = torch.cat([torch.full((SPECIAL,), -torch.inf), y_V[SPECIAL:].float()])
    if temperature == 0:
        return int(y_V.argmax())
    return int(torch.multinomial((y_V / temperature).softmax(0), 1, generator=generator))


def new_pictures(decoder: nn.Module, latent: int, request: OfPictures, device: str) -> list[dict[str, Any]]:
    """Decode request.samples pictures from codes drawn from N(0, 1)."""
    generator = torch.Generator()
    if request.seed is None:
        generator.seed()
    else:
        generator.manual_seed(request.seed)
    z = torch.randn(request.samples, latent, generator=generator)
    with torch.inference_mode():
        pictures = decoder(z.to(device)).cpu()
    return [{"sample": png(picture)} for picture in pictures]

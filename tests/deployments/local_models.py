"""Real bundles answered in this process: net and codec as in a replica, without Serve's queue between them."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployments import errors
from deployments.codec.predict import Codec
from deployments.errors import ClientError
from deployments.generation import Writer
from deployments.pipelines import Pipeline, signature
from deployments.pipelines.deployment import PipelineEndpoint
from deployments.pipelines.runner import Runner
from deployments.pipelines.signature import Signature
from deployments.settings import Limits
from training import bundle
from training.bundle import About
from training.words import TextWords

TASKS = {"number": "tabular-regression", "boxes": "object-detection", "continuation": "text-generation"}


class LocalModels:
    """Bundles by name, asked as a pipeline asks; `seen` holds what each was asked, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, bundle.Bundle] = {}
        self.signatures: dict[str, Signature] = {}
        self.seen: list[tuple[str, dict[str, Any], float]] = []
        self.cancelled: list[str] = []
        self._before: dict[str, Callable[[], Any]] = {}

    def add(self, name: str, net: nn.Module, inputs: Tensor, words: Any, answer: Any, **more: Any) -> None:
        task: Any = TASKS.get(answer.kind, "text-classification" if words.kind == "text" else "tabular-classification")
        torch.manual_seed(0)
        about = About(name=name, task=task, words=words, answer=answer)
        folder = self._folder / name
        bundle.save(folder, net, inputs=inputs, about=about, **more)
        self._models[name] = loaded = bundle.load(folder)
        self.signatures[name] = signature.of_model(loaded.manifest, loaded.example)

    def folder(self, name: str) -> Path:
        """Where a model's bundle is."""
        return self._folder / name

    def slow(self, name: str, wait_s: float) -> None:
        """Make a model take its time."""
        self._before[name] = lambda: asyncio.sleep(wait_s)

    def forget(self) -> None:
        """Begin anew: nothing seen, nobody slow."""
        self.seen.clear()
        self.cancelled.clear()
        self._before.clear()

    def gone(self, name: str) -> None:
        self._models.pop(name)

    async def ask(self, name: str, raw: bytes, request_id: str | None, within_s: float) -> tuple[int, bytes]:
        self.seen.append((name, json.loads(raw), within_s))
        if name not in self._models:
            raise errors.Unavailable(f"no replica of {name} answers")
        model = self._models[name]
        codec = Codec(model.manifest, "1", Limits(), model.tokeniser)
        try:
            if name in self._before:
                await self._before[name]()
            asked = codec.decode(raw, "application/json")
            if isinstance(model.manifest.words, TextWords) and model.manifest.answer.kind == "continuation":
                assert model.tokeniser is not None
                writer = Writer(self._forward(model), model.tokeniser, model.manifest.words.max_tokens)
                return 200, codec.said(await writer.write([tokens for _, tokens in asked.known], asked.request))
            assert asked.x is not None
            return 200, codec.encode(await self._forward(model)(asked.x), asked)
        except ClientError as error:
            return error.status, errors.body(error.code, error.message, request_id)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def runner(self, limits: Limits | None = None, **pipeline: Any) -> Runner:
        """A pipeline of these models."""
        made = Pipeline.model_validate({"name": "p", **pipeline})
        steps = {name: self.signatures[name] for name in made.models()}
        endpoint = PipelineEndpoint(name="p", version=1, pipeline=made, steps=steps, limits=limits or Limits())
        return Runner(endpoint, self.ask)

    @staticmethod
    def _forward(model: bundle.Bundle) -> Any:
        async def forward(x: Tensor) -> tuple[Tensor, ...]:
            with torch.inference_mode():
                steps = x.shape[1] if x.ndim > 1 else 0
                if model.manifest.words.kind in ("text", "series") and steps < 2:
                    x = nn.functional.pad(x, (0, 2 - steps))
                y = model.net(x)
            y = y if isinstance(y, tuple) else (y,)
            # What was filled up is cut off again.
            return tuple(each[:, :steps] if model.manifest.answer.kind == "continuation" else each for each in y)

        return forward


def body(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(rows), **more}).encode()

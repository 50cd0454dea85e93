"""Real bundles answered in this process, as in a replica."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployments import errors
from deployments.errors import ClientError
from deployments.models.replica import ServedModel
from deployments.pipelines import Pipeline
from deployments.pipelines.executor import PipelineExecutor
from deployments.settings import Limits
from deployments.specs import signature
from deployments.specs.model import Endpoint
from deployments.specs.record import PipelineEndpoint
from deployments.specs.signature import Signature
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle

TASKS = {"number": "tabular-regression", "boxes": "object-detection", "text": "text-generation"}


class LocalModels:
    """Bundles by name, asked as a pipeline asks; `seen` holds what each was asked, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, ServedModel] = {}
        self.signatures: dict[str, Signature] = {}
        self.seen: list[tuple[str, dict[str, Any], float]] = []
        self.cancelled: list[str] = []
        self._before: dict[str, Callable[[], Any]] = {}

    def add(self, name: str, net: nn.Module, inputs: Tensor, words: Any, answer: Any, **more: Any) -> None:
        task: Any = TASKS.get(answer.kind, "text-classification" if words.kind == "text" else "tabular-classification")
        torch.manual_seed(0)
        about = ModelInfo(name=name, task=task, input_schema=words, output_schema=answer)
        folder = self._folder / name
        digest = save_bundle(folder, net, inputs=inputs, info=about, **more).digest
        made = self._models[name] = ServedModel(
            Endpoint(name=name, version=1, digest=digest, uri=str(folder)), self._folder
        )
        self.signatures[name] = signature.model_signature(made.manifest, made.example)

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
        try:
            if name in self._before:
                await self._before[name]()
            return 200, await model.predict(raw, "application/json")
        except ClientError as error:
            return error.status, errors.encode_error(error.code, error.message, request_id)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def runner(self, limits: Limits | None = None, **pipeline: Any) -> PipelineExecutor:
        """A pipeline of these models."""
        made = Pipeline.model_validate({"name": "p", **pipeline})
        steps = {name: self.signatures[name] for name in made.list_models()}
        endpoint = PipelineEndpoint(name="p", version=1, pipeline=made, signatures=steps, limits=limits or Limits())
        return PipelineExecutor(endpoint, self.ask)


def body(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(rows), **more}).encode()

"""Models from real bundles, served in this process as in a replica."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployments.access.caller import CURRENT_CALLER
from deployments.errors import Unavailable
from deployments.models.served_model import ServedModel
from deployments.pipelines import Pipeline
from deployments.pipelines.executor import PipelineExecutor
from deployments.server.served import OnServed, Served, ignore_served
from deployments.settings import Limits
from deployments.specs.deployment import PipelineEndpoint
from deployments.specs.model_deployment import ModelEndpoint
from deployments.specs.signature import Signature, build_model_signature
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle

TASKS = {"number": "tabular-regression", "boxes": "object-detection", "text": "text-generation"}


class LocalModels:
    """Models by name, and their call function for a pipeline; `calls` records name, request and time limit of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, ServedModel] = {}
        self.signatures: dict[str, Signature] = {}
        self.calls: list[tuple[str, dict[str, Any], float]] = []
        self.canceled: list[str] = []
        self.priorities: list[int] = []
        self.callers: list[str] = []
        self._delays: dict[str, Callable[[], Any]] = {}

    def add(
        self, name: str, net: nn.Module, inputs: Tensor, input_schema: Any, output_schema: Any, **options: Any
    ) -> None:
        """Save a bundle and load it."""
        default_task = "text-classification" if input_schema.kind == "text" else "tabular-classification"
        task: Any = TASKS.get(output_schema.kind, default_task)
        torch.manual_seed(0)
        info = ModelInfo(name=name, task=task, input_schema=input_schema, output_schema=output_schema)
        folder = self._folder / name
        digest = save_bundle(folder, net, inputs=inputs, info=info, **options).digest
        model = self._models[name] = ServedModel(
            ModelEndpoint(name=name, version=1, digest=digest, uri=str(folder)), self._folder
        )
        self.signatures[name] = build_model_signature(model.manifest, model.example)

    def bundle_folder(self, name: str) -> Path:
        """The folder of a model's bundle."""
        return self._folder / name

    def delay(self, name: str, delay_s: float) -> None:
        """Delay a model's responses."""
        self._delays[name] = lambda: asyncio.sleep(delay_s)

    def reset(self) -> None:
        """Clear the calls and the delays."""
        self.calls.clear()
        self.canceled.clear()
        self.priorities.clear()
        self.callers.clear()
        self._delays.clear()

    def remove(self, name: str) -> None:
        """Make a model unavailable."""
        self._models.pop(name)

    async def call(
        self,
        name: str,
        body: bytes,
        request_id: str | None,
        timeout_s: float,
        priority: int = 0,
        on_served: OnServed = ignore_served,
    ) -> bytes:
        """Call a model; a request_context.ModelCall."""
        self.priorities.append(priority)
        self.callers.append(CURRENT_CALLER.get().name)
        self.calls.append((name, json.loads(body), timeout_s))
        if name not in self._models:
            raise Unavailable(f"no replica of {name} is available")
        try:
            if name in self._delays:
                await self._delays[name]()
            response = await self._models[name].predict(body, "application/json")
            on_served(Served.of(self._models[name].endpoint))
            return response
        except asyncio.CancelledError:
            self.canceled.append(name)
            raise

    def build_executor(self, limits: Limits | None = None, **specification: Any) -> PipelineExecutor:
        """Build a pipeline of these models."""
        pipeline = Pipeline.model_validate({"name": "p", **specification})
        signatures = {name: self.signatures[name] for name in pipeline.list_models()}
        endpoint = PipelineEndpoint(
            name="p", version=1, pipeline=pipeline, signatures=signatures, limits=limits or Limits()
        )
        return PipelineExecutor(endpoint, self.call)


def encode_request(*rows: Any, **options: Any) -> bytes:
    return json.dumps({"inputs": list(rows), **options}).encode()

"""Model replica: one bundle, one device, one forward pass at a time.

Deploy walk:  apps.py -> [replica.py] -> training.bundle.bundle (load, verify) -> variants.py -> batching.py (warm up)
Request walk: socket -> HAProxy -> routes.py -> [replica.py] -> codec -> batching.py -> codec -> socket
Owns the net and its codecs; knows nothing of HTTP.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve

from deployments.errors import DeadlineExceeded, NotStreamed, UnknownVersion
from deployments.models import variants
from deployments.models.batching import Batcher
from deployments.models.generation import TextGenerator, sample_images
from deployments.protocols.oip.codec import OipCodec, encode_metadata
from deployments.protocols.predict.codec import PredictCodec, encode_json
from deployments.protocols.predict.inputs import InputReader
from deployments.server import fast_path
from deployments.server.asgi import App
from deployments.server.authentication import Caller
from deployments.server.bind_host import bind_replica_port
from deployments.server.handle_api import HandleApi
from deployments.server.layers import compose_http
from deployments.server.routes import ModelRoutes
from deployments.server.sse import Event
from deployments.specs.model import Endpoint
from training.bundle.load import load_bundle
from training.registry import storage
from training.schema import ImageInput, ImageOutput, SeriesInput, TextInput

# Pictures of more bytes are decoded in a thread: the event loop must not stand still for a large one.
INLINE_BYTES = 2048


class ServedModel:
    """A loaded bundle that answers requests; what a replica is, without Ray around it."""

    def __init__(self, endpoint: Endpoint, cache: Path) -> None:
        self.endpoint = endpoint
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = storage.fetch_folder(endpoint.uri, cache / endpoint.digest)
        loaded = load_bundle(folder, endpoint.digest, self.device)
        self.manifest, self.example = loaded.manifest, loaded.example
        version = str(endpoint.version)
        limits, manifest = endpoint.limits, self.manifest
        texts, vocabulary = None, len(loaded.tokenizer) if loaded.tokenizer else None
        if isinstance(manifest.input_schema, TextInput) and not manifest.input_schema.has_predicate:
            texts = InputReader(manifest, limits, loaded.tokenizer).read_rows
        self.oip_codec = OipCodec(manifest, version, limits.max_rows, vocabulary, texts)
        self.predict_codec = PredictCodec(manifest, version, limits, loaded.tokenizer)
        self.metadata = encode_metadata(manifest, version)
        padding = (
            manifest.input_schema.padding_value if isinstance(manifest.input_schema, TextInput | SeriesInput) else None
        )
        stepped = tuple(len(spec.shape) > 1 and spec.shape[1] < 0 for spec in manifest.outputs)
        first = self.predict_codec.decode(encode_json(self.example), "application/json").rows
        assert first is not None
        net = variants.build_variant(loaded.net, endpoint, manifest, first, self.device, cache)
        dtype = torch.bfloat16 if manifest.inputs[0].datatype == "BF16" else None
        self._batcher = Batcher(net, self.device, limits.max_batch_rows, padding, stepped, dtype)
        self._batcher.warm_up(first)
        self._decoder = loaded.decoder
        self._generator = None
        if manifest.output_schema.kind == "text" and loaded.tokenizer and isinstance(manifest.input_schema, TextInput):
            self._generator = TextGenerator(self._batcher.forward, loaded.tokenizer, manifest.input_schema.max_tokens)

    def check_version(self, asked: str) -> None:
        """Raise UnknownVersion unless this is the version that is asked for, or none is."""
        if asked not in ("", str(self.endpoint.version)):
            raise UnknownVersion(f"version {asked!r} is not deployed; version {self.endpoint.version} is")

    async def infer(self, raw: bytes, header_length: int | None = None) -> tuple[bytes, int | None]:
        """Answer an Open Inference Protocol request; see OipCodec for the two numbers, the JSON part's lengths."""
        asked = self.oip_codec.decode(raw, header_length)
        if asked.timeout_s is None:
            return self.oip_codec.encode(await self._batcher.forward(asked.rows), asked)
        try:
            async with asyncio.timeout(asked.timeout_s):
                outputs = await self._batcher.forward(asked.rows)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer within the request's timeout, {asked.timeout_s:g} s; give it longer"
            ) from None
        return self.oip_codec.encode(outputs, asked)

    async def stream(self, raw: bytes, content_type: str) -> AsyncGenerator[Event]:
        """Answer a request in the words of the task while the answer grows; closing it stops the work.

        Yields:
            ("token", {"row", "text"}) for each piece of each row, then ("done", what `predict` answers).

        Raises:
            NotStreamed: the answer does not grow.
        """
        if self._generator is None:
            raise NotStreamed(f"{self.manifest.name} has no answer that grows; ask it without stream")
        asked = self.predict_codec.decode(raw, content_type)
        texts: list[list[str]] = [[] for _ in asked.row_contexts]
        prompts = [tokens for _, tokens in asked.row_contexts]
        async with contextlib.aclosing(self._generator.stream(prompts, asked.options)) as pieces:
            async for row, text in pieces:
                texts[row].append(text)
                yield "token", encode_json({"row": row, "text": text})
        yield "done", self.predict_codec.encode_predictions([{"text": "".join(parts)} for parts in texts])

    async def predict(
        self, raw: bytes, content_type: str, request_id: str | None = None, within_s: float | None = None
    ) -> bytes:
        """Answer a request in the words of the task."""
        if len(raw) > INLINE_BYTES and isinstance(self.manifest.input_schema, ImageInput):
            asked = await asyncio.to_thread(self.predict_codec.decode, raw, content_type)
        else:
            asked = self.predict_codec.decode(raw, content_type)
        if self._generator:
            prompts = [tokens for _, tokens in asked.row_contexts]
            return self.predict_codec.encode_predictions(await self._generator.generate(prompts, asked.options))
        if asked.rows is None:
            assert self._decoder is not None
            assert isinstance(self.manifest.output_schema, ImageOutput)
            drawn = sample_images(self._decoder, self.manifest.output_schema.latent_size, asked.options, self.device)
            return self.predict_codec.encode_predictions(drawn)
        return self.predict_codec.encode(await self._batcher.forward(asked.rows), asked)


@serve.deployment(name="replica")
@serve.ingress()
class Replica(HandleApi):
    """A Model as a Serve deployment, with the ingress layers in its own process."""

    def __init__(self, endpoint: dict[str, Any], keys: dict[str, str], cache: str, host: str) -> None:
        bind_replica_port(host)
        # Without this torch would take every core for each replica.
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        self.servable = ServedModel(Endpoint.model_validate(endpoint), Path(cache))
        self._callers = {digest: Caller(name) for digest, name in keys.items()}

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        app = compose_http(ModelRoutes(self.servable), self.servable.endpoint.limits, self._callers)
        fast_path.install_fast_path(app)
        return app

"""Model replica: one bundle, one device, one forward pass at a time.

Deploy walk:  apps.py -> [replica.py] -> training.bundle (load, verify) -> precision.py -> batching.py (warm up)
Request walk: socket -> HAProxy -> ingress.py -> [replica.py] -> codec -> batching.py -> codec -> socket
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

from deployments import direct, ingress, precision
from deployments.batching import Batcher
from deployments.by_handle import ByHandle
from deployments.codec import oip, predict
from deployments.codec.rows import Reader
from deployments.confine import confine
from deployments.errors import NotStreamed, TimedOut, UnknownVersion
from deployments.generation import Writer, new_pictures
from deployments.layers.asgi import App
from deployments.layers.callers import Caller
from deployments.layers.events import Event
from deployments.spec import Endpoint
from training import bundle, store
from training.words import ImageWords, Picture, SeriesWords, TextWords

# Pictures of more bytes are decoded in a thread: the event loop must not stand still for a large one.
INLINE_BYTES = 2048


class Model:
    """A loaded bundle that answers requests; what a replica is, without Ray around it."""

    def __init__(self, endpoint: Endpoint, cache: Path) -> None:
        self.endpoint = endpoint
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = store.fetch(endpoint.uri, cache / endpoint.digest)
        loaded = bundle.load(folder, endpoint.digest, self.device)
        self.manifest, self.example = loaded.manifest, loaded.example
        version = str(endpoint.version)
        limits, manifest = endpoint.limits, self.manifest
        texts, vocabulary = None, len(loaded.tokeniser) if loaded.tokeniser else None
        if isinstance(manifest.words, TextWords) and not manifest.words.predicate:
            texts = Reader(manifest, limits, loaded.tokeniser).rows
        self.oip = oip.Codec(manifest, version, limits.max_rows, vocabulary, texts)
        self.words = predict.Codec(manifest, version, limits, loaded.tokeniser)
        self.metadata = oip.metadata(manifest, version)
        padding = manifest.words.padding if isinstance(manifest.words, TextWords | SeriesWords) else None
        stepped = tuple(len(spec.shape) > 1 and spec.shape[1] < 0 for spec in manifest.outputs)
        first = self.words.decode(predict.json_body(self.example), "application/json").x
        assert first is not None
        net = precision.formed(loaded.net, endpoint, manifest, first, self.device, cache)
        dtype = torch.bfloat16 if manifest.inputs[0].datatype == "BF16" else None
        self._batcher = Batcher(net, self.device, limits.max_batch_rows, padding, stepped, dtype)
        self._batcher.warm_up(first)
        self._decoder = loaded.decoder
        self._writer = None
        if manifest.answer.kind == "continuation" and loaded.tokeniser and isinstance(manifest.words, TextWords):
            self._writer = Writer(self._batcher.forward, loaded.tokeniser, manifest.words.max_tokens)

    def check_version(self, asked: str) -> None:
        """Raise UnknownVersion unless this is the version that is asked for, or none is."""
        if asked not in ("", str(self.endpoint.version)):
            raise UnknownVersion(f"version {asked!r} is not deployed; version {self.endpoint.version} is")

    async def infer(self, raw: bytes, header_length: int | None = None) -> tuple[bytes, int | None]:
        """Answer an Open Inference Protocol request; see oip.Codec for the two numbers, the JSON part's lengths."""
        asked = self.oip.decode(raw, header_length)
        if asked.timeout_s is None:
            return self.oip.encode(await self._batcher.forward(asked.x), asked)
        try:
            async with asyncio.timeout(asked.timeout_s):
                outputs = await self._batcher.forward(asked.x)
        except TimeoutError:
            raise TimedOut(f"no answer within the request's timeout, {asked.timeout_s:g} s; give it longer") from None
        return self.oip.encode(outputs, asked)

    async def stream(self, raw: bytes, content_type: str) -> AsyncGenerator[Event]:
        """Answer a request in the words of the task while the answer grows; closing it stops the work.

        Yields:
            ("token", {"row", "text"}) for each piece of each row, then ("done", what `predict` answers).

        Raises:
            NotStreamed: the answer does not grow.
        """
        if self._writer is None:
            raise NotStreamed(f"{self.manifest.name} has no answer that grows; ask it without stream")
        asked = self.words.decode(raw, content_type)
        texts: list[list[str]] = [[] for _ in asked.known]
        prompts = [tokens for _, tokens in asked.known]
        async with contextlib.aclosing(self._writer.pieces(prompts, asked.request)) as pieces:
            async for row, text in pieces:
                texts[row].append(text)
                yield "token", predict.json_body({"row": row, "text": text})
        yield "done", self.words.said([{"text": "".join(parts)} for parts in texts])

    async def predict(
        self, raw: bytes, content_type: str, request_id: str | None = None, within_s: float | None = None
    ) -> bytes:
        """Answer a request in the words of the task."""
        if len(raw) > INLINE_BYTES and isinstance(self.manifest.words, ImageWords):
            asked = await asyncio.to_thread(self.words.decode, raw, content_type)
        else:
            asked = self.words.decode(raw, content_type)
        if self._writer:
            prompts = [tokens for _, tokens in asked.known]
            return self.words.said(await self._writer.write(prompts, asked.request))
        if asked.x is None:
            assert self._decoder is not None
            assert isinstance(self.manifest.answer, Picture)
            drawn = new_pictures(self._decoder, self.manifest.answer.latent, asked.request, self.device)
            return self.words.said(drawn)
        return self.words.encode(await self._batcher.forward(asked.x), asked)


@serve.deployment(name="replica")
@serve.ingress()
class Replica(ByHandle):
    """A Model as a Serve deployment, with the ingress layers in its own process."""

    def __init__(self, endpoint: dict[str, Any], keys: dict[str, str], cache: str, host: str) -> None:
        confine(host)
        # Without this torch would take every core for each replica.
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        self.answering = Model(Endpoint.model_validate(endpoint), Path(cache))
        self._callers = {digest: Caller(name) for digest, name in keys.items()}

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        app = ingress.model_app(self.answering, self._callers)
        direct.shorten(app)
        return app

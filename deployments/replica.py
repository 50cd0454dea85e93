"""Model replica: one bundle, one device, one forward pass at a time.

Deploy walk:  deployments.apps -> [replica.py] -> training.bundle (load, verify, warm up)
Request walk: socket -> HAProxy -> ingress.py -> [replica.py] -> codec -> batching.py -> codec -> socket
Owns the net and its codecs; knows nothing of HTTP.
"""

import asyncio
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve

from deployments import ingress
from deployments.batching import Batcher
from deployments.codec import oip, predict
from deployments.confine import confine
from deployments.errors import ClientError, TimedOut, body
from deployments.generation import Writer, new_pictures
from deployments.layers.asgi import App
from deployments.layers.callers import Caller
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
        self.oip = oip.Codec(manifest, version, limits.max_rows, len(loaded.tokeniser) if loaded.tokeniser else None)
        self.words = predict.Codec(manifest, version, limits, loaded.tokeniser)
        self.metadata = oip.metadata(manifest, version)
        padding = manifest.words.padding if isinstance(manifest.words, TextWords | SeriesWords) else None
        stepped = tuple(len(spec.shape) > 1 and spec.shape[1] < 0 for spec in manifest.outputs)
        self._batcher = Batcher(loaded.net, self.device, limits.max_batch_rows, padding, stepped)
        first = self.words.decode(predict.json_body(self.example), "application/json").x
        assert first is not None
        self._batcher.warm_up(first)
        self._decoder = loaded.decoder
        self._writer = None
        if manifest.answer.kind == "continuation" and loaded.tokeniser and isinstance(manifest.words, TextWords):
            self._writer = Writer(self._batcher.forward, loaded.tokeniser, manifest.words.max_tokens)

    async def infer(self, raw: bytes) -> bytes:
        """Answer an Open Inference Protocol request."""
        x, request_id, wanted = self.oip.decode(raw)
        return self.oip.encode(await self._batcher.forward(x), request_id, wanted)

    async def predict(self, raw: bytes, content_type: str) -> bytes:
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
class Replica:
    """A Model as a Serve deployment, with the ingress layers in its own process."""

    def __init__(self, endpoint: dict[str, Any], keys: dict[str, str], cache: str, host: str) -> None:
        confine(host)
        # Without this torch would take every core for each replica.
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        self._model = Model(Endpoint.model_validate(endpoint), Path(cache))
        self._callers = {digest: Caller(name) for digest, name in keys.items()}

    def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once, after the constructor."""
        return ingress.model_app(self._model, self._callers)

    async def predict(
        self, raw: bytes, content_type: str, request_id: str | None, within_s: float | None = None
    ) -> tuple[int, bytes]:
        """The call that comes through a handle, given up after within_s; returns status and body."""
        limit_s = self._model.endpoint.limits.request_timeout_s
        limit_s = limit_s if within_s is None else min(within_s, limit_s)
        try:
            async with asyncio.timeout(limit_s):
                return 200, await self._model.predict(raw, content_type)
        except ClientError as error:
            return error.status, body(error.code, error.message, request_id)
        except TimeoutError:
            late = TimedOut(f"no answer within {limit_s:.3g} s; try again, or send less")
            return late.status, body(late.code, late.message, request_id)

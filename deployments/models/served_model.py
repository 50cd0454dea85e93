"""Served model: a bundle loaded, in its variant, with codecs and a batcher; what a model's replica serves, without Ray.

Deploy walk: replica.py -> [served_model.py] -> training.bundle.load -> variants.py -> batching.py
Request walk: deployments.server.routes -> [served_model.py: decode] -> batching.py -> [served_model.py: encode]
Knows nothing of HTTP.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from deployments.errors import DeadlineExceeded, NotStreamable
from deployments.models.batching import Batcher
from deployments.models.generation import TextGenerator, sample_images
from deployments.models.variants import build_variant
from deployments.observability.tracing import ReplicaTracer
from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.oip.codec import OipCodec, encode_metadata
from deployments.protocols.predict import events
from deployments.protocols.predict.codec import PredictCodec, PredictRequest, encode_json
from deployments.protocols.predict.images import TooLargeInline, run_in_image_thread
from deployments.protocols.predict.inputs import InputPreprocessor
from deployments.protocols.predict.requests import ImageRequest
from deployments.scaling.report import PassReport
from deployments.server.sse import Event
from deployments.specs.model_deployment import ModelEndpoint
from training.bundle.load import Bundle, load_bundle
from training.registry import storage
from training.schema import ImageInput, ImageOutput, SeriesInput, TextInput

Result = TypeVar("Result")

# About a millisecond's work. What is larger is decoded or encoded in a thread, since it would stall the event loop.
MAX_INLINE_TEXT_BYTES = 2048  # and of images, whose pixels count too; see MAX_INLINE_PIXELS
MAX_INLINE_ROWS_BYTES = 4096
MAX_INLINE_JSON_TENSOR_BYTES = 2**15
MAX_INLINE_TENSOR_BYTES = 2**20
MAX_INLINE_ROWS, MAX_INLINE_ELEMENTS = 64, 8192


class ServedModel:
    """A model that responds to requests."""

    def __init__(self, endpoint: ModelEndpoint, cache: Path) -> None:
        """Load a model and warm it up.

        Args:
            endpoint: names the bundle, its variant and the limits.
            cache: folder of downloaded bundles and compiled nets.

        Raises:
            BundleError: the bundle is damaged, or another one than the endpoint's.
            UserError: the variant cannot be built.
        """
        self.endpoint = endpoint
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        bundle = storage.use_bundle(
            endpoint.uri,
            cache / endpoint.digest,
            lambda folder: load_bundle(folder, endpoint.digest, self.device),
        )
        self.manifest, self.example, self._decoder = bundle.manifest, bundle.example, bundle.decoder
        self.oip_codec = _build_oip_codec(bundle, endpoint)
        self.predict_codec = PredictCodec(bundle.manifest, str(endpoint.version), endpoint.limits, bundle.tokenizer)
        is_text = isinstance(bundle.manifest.input_schema, TextInput)
        is_image = isinstance(bundle.manifest.input_schema, ImageInput)
        self._run_in_thread = run_in_image_thread if is_image else asyncio.to_thread
        self._inline_bytes = MAX_INLINE_TEXT_BYTES if is_text or is_image else MAX_INLINE_ROWS_BYTES
        # Texts may come as an input's bytes, too.
        self._inline_json_bytes = MAX_INLINE_TEXT_BYTES if is_text else MAX_INLINE_JSON_TENSOR_BYTES
        self._inline_binary_bytes = MAX_INLINE_TEXT_BYTES if is_text else MAX_INLINE_TENSOR_BYTES
        self.metadata = encode_metadata(bundle.manifest, str(endpoint.version))
        rows = self._decode_example()
        net = build_variant(bundle.net, endpoint, bundle.manifest, rows, self.device, cache)
        self._batcher = _build_batcher(net, bundle, endpoint, self.device)
        self._batcher.warm_up(rows)
        self._generator = _build_generator(bundle, self._batcher)
        self._forward: Callable[[Rows], Awaitable[Outputs]] = self._batcher.forward

    def enable_tracing(self, tracer: ReplicaTracer) -> None:
        """Make spans of the queue and the passes of sampled requests, those of generated tokens aside."""
        self._forward = tracer.trace_forward(self._batcher.forward)

    async def check_health(self) -> None:
        """Check that forward passes succeed; see Batcher.check_health."""
        await self._batcher.check_health(self.endpoint.limits.request_timeout_s)

    def report_passes(self) -> PassReport:
        """What its batcher has done, and has to do."""
        report = self._batcher.report_passes()
        return replace(report, generated_tokens=self._generator.generated_tokens) if self._generator else report

    def _decode_example(self) -> Rows:
        rows = self.predict_codec.decode_request(encode_json(self.example), "application/json").rows
        assert rows is not None, "a bundle's example has rows"
        return rows

    async def infer(self, body: bytes, header_length: int | None = None) -> tuple[bytes, int | None]:
        """Run an Open Inference Protocol request; header lengths are of the JSON parts (see OipCodec)."""
        codec = self.oip_codec
        if len(body) <= (self._inline_json_bytes if header_length is None else self._inline_binary_bytes):
            request = codec.decode_request(body, header_length)
        else:
            request = await asyncio.to_thread(codec.decode_request, body, header_length)
        if request.timeout_s is None:
            outputs = await self._forward(request.rows)
        else:
            outputs = await self._forward_in_time(request.rows, request.timeout_s)
        if sum([y.size for y in outputs]) <= MAX_INLINE_ELEMENTS:
            return codec.encode_response(outputs, request)
        return await asyncio.to_thread(codec.encode_response, outputs, request)

    async def _forward_in_time(self, rows: Rows, timeout_s: float) -> Outputs:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._forward(rows)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no response within the request's timeout of {timeout_s:g} s; set a longer one"
            ) from None

    async def predict(
        self, body: bytes, content_type: str, request_id: str | None = None, timeout_s: float | None = None
    ) -> bytes:
        """Run a `predict` request."""
        request = await self._decode_predict(body, content_type)
        if self._generator:
            texts = await self._generator.generate(_get_prompts(request), request.options)
            return self.predict_codec.encode_predictions(texts)
        if request.rows is None:
            return await run_in_image_thread(self._sample_images, request.options)
        outputs = await self._forward(request.rows)
        if len(request.rows) <= MAX_INLINE_ROWS and sum([y.size for y in outputs]) <= MAX_INLINE_ELEMENTS:
            return self.predict_codec.encode_response(outputs, request)
        return await self._run_in_thread(self.predict_codec.encode_response, outputs, request)

    async def _decode_predict(self, body: bytes, content_type: str) -> PredictRequest:
        if len(body) <= self._inline_bytes:
            with contextlib.suppress(TooLargeInline):
                return self.predict_codec.decode_request(body, content_type, inline=True)
        return await self._run_in_thread(self.predict_codec.decode_request, body, content_type)

    def _sample_images(self, options: ImageRequest) -> bytes:
        assert self._decoder is not None
        assert isinstance(self.manifest.output_schema, ImageOutput)
        images = sample_images(self._decoder, self.manifest.output_schema.latent_size, options, self.device)
        return self.predict_codec.encode_predictions(images)

    async def stream(self, body: bytes, content_type: str) -> AsyncGenerator[Event]:
        """Run a `predict` request and stream its response; closing the generator stops the work.

        Yields:
            (TOKEN, {"row", "text"}) for each chunk of each row, then (DONE, the response of `predict`).

        Raises:
            NotStreamable: the model does not generate text.
        """
        if self._generator is None:
            raise NotStreamable(f"{self.manifest.name} does not generate text; send the request without stream")
        request = await self._decode_predict(body, content_type)
        prompts = _get_prompts(request)
        texts: list[list[str]] = [[] for _ in prompts]
        async with contextlib.aclosing(self._generator.stream(prompts, request.options)) as chunks:
            async for chunk in chunks:
                texts[chunk.row].append(chunk.text)
                yield events.TOKEN, encode_json(chunk._asdict())
        yield events.DONE, self.predict_codec.encode_predictions([{"text": "".join(parts)} for parts in texts])


def _get_prompts(request: PredictRequest) -> list[Any]:
    return [tokens for _, tokens in request.row_contexts]


def _build_oip_codec(bundle: Bundle, endpoint: ModelEndpoint) -> OipCodec:
    manifest, limits = bundle.manifest, endpoint.limits
    tokenize = None
    if isinstance(manifest.input_schema, TextInput) and not manifest.input_schema.has_predicate:
        tokenize = InputPreprocessor(manifest, limits, bundle.tokenizer).preprocess_rows
    vocab_size = len(bundle.tokenizer) if bundle.tokenizer else None
    return OipCodec(manifest, str(endpoint.version), limits, vocab_size, tokenize)


def _build_batcher(net: torch.nn.Module, bundle: Bundle, endpoint: ModelEndpoint, device: str) -> Batcher:
    schema = bundle.manifest.input_schema
    return Batcher(
        net,
        device,
        max_rows=endpoint.limits.max_batch_rows,
        padding_value=schema.padding_value if isinstance(schema, TextInput | SeriesInput) else None,
        has_time_axis=tuple(len(spec.shape) > 1 and spec.shape[1] < 0 for spec in bundle.manifest.outputs),
        # numpy has no bfloat16.
        dtype=torch.bfloat16 if bundle.manifest.inputs[0].datatype == "BF16" else None,
    )


def _build_generator(bundle: Bundle, batcher: Batcher) -> TextGenerator | None:
    schema, is_language_model = bundle.manifest.input_schema, bundle.manifest.output_schema.kind == "text"
    if not is_language_model or bundle.tokenizer is None or not isinstance(schema, TextInput):
        return None
    return TextGenerator(batcher.forward, bundle.tokenizer, schema.max_tokens)

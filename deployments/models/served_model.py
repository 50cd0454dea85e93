"""Served model: a bundle loaded, in its variant, with codecs and a batcher; what a model's replica serves, without Ray.

Deploy walk: replica.py -> [served_model.py] -> training.bundle.load -> variants.py -> batching.py
Request walk: deployments.server.routes -> [served_model.py: decode] -> batching.py -> [served_model.py: encode]
Knows nothing of HTTP.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from deployments.access.usage.request_usage import CURRENT_USAGE, RequestUsage
from deployments.errors import DeadlineExceeded, InferenceFailed, NotStreamable
from deployments.models.batching import Batcher
from deployments.models.chunks import PendingRequest
from deployments.models.content import ContentCharge
from deployments.models.example_check import MAX_ROWS, check_example_outputs
from deployments.models.generation import TextGenerator, sample_images
from deployments.models.inline_limits import MAX_INLINE_ELEMENTS, MAX_INLINE_ROWS, InlineLimits
from deployments.models.variants import build_variant
from deployments.observability.tracing import ReplicaTracer
from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.oip.codec import InferRequest, InferResponse, OipCodec, encode_metadata
from deployments.protocols.predict import events
from deployments.protocols.predict.codec import PredictCodec, PredictRequest, encode_json
from deployments.protocols.predict.events import TextChunk
from deployments.protocols.predict.images import TooLargeInline, run_in_image_thread
from deployments.protocols.predict.inputs import InputPreprocessor
from deployments.protocols.predict.requests import ImageRequest
from deployments.scaling.profile import PROFILES, ProfileCache, build_key
from deployments.scaling.report import PassReport
from deployments.server.scheduling import Scheduling
from deployments.server.sse import Event
from deployments.specs.model_deployment import ModelEndpoint
from training.bundle.load import Bundle, load_bundle
from training.errors import UserError
from training.registry import storage
from training.schema import ImageInput, ImageOutput, SeriesInput, TextInput

Result = TypeVar("Result")

# Seconds of timing passes where there is a latency goal: enough for a 99th percentile of all but the slowest nets.
PROFILE_S = 1.5
JSON = "application/json"
CODEC_REPEATS, CODEC_BUDGET_S = 30, 0.02


class ServedModel:
    """A model that responds to requests."""

    def __init__(
        self,
        endpoint: ModelEndpoint,
        cache: Path,
        end_phase: Callable[[str], None] = lambda phase: None,
        *,
        slo_p99_s: float | None = None,
        profile_s: float | None = None,
    ) -> None:
        """Load a model and warm it up.

        Args:
            endpoint: names the bundle, its variant and the limits.
            cache: folder of downloaded bundles, compiled nets and profiles.
            end_phase: told when the phases fetch, load and warm_up end.
            slo_p99_s: goal for the 99th percentile of a request's latency; None for throughput alone.
            profile_s: seconds for timing passes; None for PROFILE_S where there is a goal, else as few as the choice of
                rows per pass needs.

        Raises:
            BundleError: the bundle is damaged, or another one than the endpoint's.
            UserError: the variant cannot be built, cannot meet the goal, or gives no finite outputs for the example.
        """
        self.endpoint = endpoint
        # With its number, as tensors have it: an export for compiling compares the two.
        self.device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"

        def load(folder: Path) -> Bundle:
            end_phase("fetch")
            return load_bundle(folder, endpoint.digest, self.device)

        bundle = storage.use_bundle(endpoint.uri, cache / endpoint.digest, load)
        self.manifest, self.example, self._decoder = bundle.manifest, bundle.example, bundle.decoder
        self.oip_codec = _build_oip_codec(bundle, endpoint)
        self.predict_codec = PredictCodec(bundle.manifest, str(endpoint.version), endpoint.limits, bundle.tokenizer)
        self._inline = InlineLimits.of(bundle.manifest)
        self._has_tokens = isinstance(bundle.manifest.input_schema, TextInput)
        is_image = isinstance(bundle.manifest.input_schema, ImageInput)
        self._run_in_thread = run_in_image_thread if is_image else asyncio.to_thread
        self.metadata = encode_metadata(bundle.manifest, str(endpoint.version))
        self._example_body = encode_json(self.example)
        rows = self._decode_example()
        net = build_variant(bundle.net, endpoint, bundle.manifest, rows, self.device, cache)
        self._batcher = _build_batcher(net, bundle, endpoint, self.device)
        check_example_outputs(self._batcher.run_rows(rows[:MAX_ROWS]), bundle.manifest, endpoint.variant)
        end_phase("load")
        budget_s = (PROFILE_S if slo_p99_s else 0.0) if profile_s is None else profile_s
        self.profiles = ProfileCache(cache / PROFILES)
        self.profile = self.profiles.load_or_measure(
            build_key(endpoint.digest, endpoint.variant, endpoint.limits.max_batch_rows),
            budget_s,
            lambda known: self._batcher.warm_up(rows, known, budget_s=budget_s, slo_p99_s=slo_p99_s),
        )
        self._check_goal(slo_p99_s)
        end_phase("warm_up")
        self._generator = _build_generator(bundle, self._batcher)
        self._content = ContentCharge(bundle.manifest, is_generator=self._generator is not None)
        self._failures = 0
        self._forward: Callable[[Rows, Scheduling | None], Awaitable[Outputs]] = self._batcher.forward

    def enable_tracing(self, tracer: ReplicaTracer) -> None:
        """Make spans of the queue and the passes of sampled requests, those of generated tokens aside."""
        self._forward = tracer.trace_forward(self._batcher.forward)

    def _check_goal(self, slo_p99_s: float | None) -> None:
        """Raise UserError where not even a pass of one row fits into the goal."""
        fastest_s = self.profile.passes[0].min_s
        if slo_p99_s is not None and fastest_s > slo_p99_s:
            raise UserError(
                f"{self.endpoint.name} ({self.endpoint.variant}) cannot answer within slo_p99_s={slo_p99_s:g}: one "
                f"row takes {fastest_s:.3g} s here; ask for more, or deploy it with --dtype bf16, --compile or --cpus"
            )

    async def check_health(self) -> None:
        """Check that forward passes succeed; see Batcher.check_health."""
        await self._batcher.check_health(self.endpoint.limits.request_timeout_s)

    def report_passes(self) -> PassReport:
        """What its batcher has done and has to do, and the requests that the net failed for."""
        generated_tokens = self._generator.generated_tokens if self._generator else 0
        return replace(self._batcher.report_passes(), failures=self._failures, generated_tokens=generated_tokens)

    async def time_codec(self, rows: int) -> float:
        """CPU seconds of decoding a request of so many of the example's rows and encoding its response."""
        codec, inputs = self.predict_codec, self.example["inputs"]
        assert isinstance(inputs, list), "a bundle's example has rows"
        body = encode_json(self.example | {"inputs": (inputs * rows)[:rows]})
        request = codec.decode_request(body, JSON)
        if request.rows is None or self._generator:
            return 0.0
        outputs = await self._batcher.forward(request.rows)
        started_s, repeats = time.thread_time(), 0
        while repeats < CODEC_REPEATS and (not repeats or time.thread_time() - started_s < CODEC_BUDGET_S):
            codec.encode_response(outputs, codec.decode_request(body, JSON))
            repeats += 1
        return (time.thread_time() - started_s) / repeats

    def _decode_example(self) -> Rows:
        rows = self.predict_codec.decode_request(self._example_body, JSON).rows
        assert rows is not None, "a bundle's example has rows"
        return rows

    async def infer(
        self, body: bytes, header_length: int | None = None, scheduling: Scheduling | None = None
    ) -> InferResponse:
        """Run an Open Inference Protocol request; header lengths are of the JSON parts (see OipCodec)."""
        # Before it is decoded: to refuse must cost less than to answer.
        self._batcher.check_admission(scheduling)
        codec = self.oip_codec
        if len(body) <= self._inline.infer_bytes(header_length):
            request = codec.decode_request(body, header_length)
        else:
            request = await asyncio.to_thread(codec.decode_request, body, header_length)
        self._count_inputs(request.rows, CURRENT_USAGE.get())
        if request.timeout_s is not None or request.priority:
            scheduling = _combine(scheduling, request)
        await self._content.take(request.rows)
        try:
            outputs = await self._forward(request.rows, scheduling)
            if sum([y.size for y in outputs]) <= MAX_INLINE_ELEMENTS:
                return codec.encode_response(outputs, request)
            return await asyncio.to_thread(codec.encode_response, outputs, request)
        except InferenceFailed:
            self._failures += 1
            raise

    def submit_infer(
        self,
        body: bytes,
        header_length: int | None,
        scheduling: Scheduling | None,
        on_done: Callable[[InferResponse | Exception], None],
        usage: RequestUsage | None = None,
    ) -> PendingRequest | None:
        """Do as `infer` for a small request, without a task; None for one that `infer` has to take.

        Args:
            body: as for `infer`.
            header_length: as for `infer`.
            scheduling: as for `infer`.
            on_done: called later with what `infer` returns or raises, unless the request is abandoned before.
            usage: what the request comes to; filled in.

        Raises:
            ClientError: what `infer` raises before the request is queued.
        """
        if len(body) > self._inline.infer_bytes(header_length) or not self._inline.infer_rows:
            return None
        batcher, codec = self._batcher, self.oip_codec
        batcher.check_admission(scheduling)
        request = codec.decode_request(body, header_length)
        if len(request.rows) > self._inline.infer_rows or not self._content.try_take(request.rows):
            return None
        self._count_inputs(request.rows, usage)
        if request.timeout_s is not None or request.priority:
            scheduling = _combine(scheduling, request)

        def finish(outputs: Outputs | Exception) -> None:
            try:
                if isinstance(outputs, Exception):
                    raise outputs
                response = codec.encode_response(outputs, request)
            except Exception as error:
                self._failures += isinstance(error, InferenceFailed)
                on_done(error)
            else:
                on_done(response)

        return batcher.submit(request.rows, finish, scheduling, None, usage)

    async def predict(
        self, body: bytes, content_type: str, request_id: str | None = None, scheduling: Scheduling | None = None
    ) -> bytes:
        """Run a `predict` request."""
        self._batcher.check_admission(scheduling)
        request = await self._decode_predict(body, content_type)
        self._count_request(request)
        await self._content.take_request(request)
        if self._generator:
            texts = await self._generator.generate(_get_prompts(request), request.options, scheduling)
            return self.predict_codec.encode_predictions(texts)
        if request.rows is None:
            limit = Scheduling.after(self.endpoint.limits.request_timeout_s)
            due = min(scheduling or limit, limit)
            # A thread does not have this task's context.
            return await run_in_image_thread(self._sample_images, request.options, due, CURRENT_USAGE.get())
        try:
            outputs = await self._forward(request.rows, scheduling)
            if len(request.rows) <= MAX_INLINE_ROWS and sum([y.size for y in outputs]) <= MAX_INLINE_ELEMENTS:
                return self.predict_codec.encode_response(outputs, request)
            return await self._run_in_thread(self.predict_codec.encode_response, outputs, request)
        except InferenceFailed:
            self._failures += 1
            raise

    def _count_inputs(self, rows: Rows, usage: RequestUsage | None) -> None:
        if usage is not None:
            usage.rows = len(rows)
            if self._has_tokens:
                usage.tokens_in = sum(map(len, rows))

    def _count_request(self, request: PredictRequest) -> None:
        usage = CURRENT_USAGE.get()
        if usage is None:
            return
        if request.rows is not None and not self._generator:
            self._count_inputs(request.rows, usage)
        elif self._generator:
            usage.rows = len(request.row_contexts)
            usage.tokens_in = sum(len(tokens.ids) for tokens in _get_prompts(request))
        else:
            usage.rows = request.options.samples

    async def _decode_predict(self, body: bytes, content_type: str) -> PredictRequest:
        if len(body) <= self._inline.predict_bytes:
            with contextlib.suppress(TooLargeInline):
                return self.predict_codec.decode_request(body, content_type, inline=True)
        return await self._run_in_thread(self.predict_codec.decode_request, body, content_type)

    def _sample_images(self, options: ImageRequest, scheduling: Scheduling, usage: RequestUsage | None) -> bytes:
        assert self._decoder is not None
        assert isinstance(self.manifest.output_schema, ImageOutput)
        latent_size, started_s = self.manifest.output_schema.latent_size, time.perf_counter()
        images = sample_images(self._decoder, latent_size, options, self.device, scheduling)
        if usage is not None:
            usage.compute_s += time.perf_counter() - started_s
        return self.predict_codec.encode_predictions(images)

    async def stream(
        self, body: bytes, content_type: str, scheduling: Scheduling | None = None
    ) -> AsyncGenerator[Event]:
        """Run a `predict` request and stream its response; closing the generator stops the work.

        A deadline is one for the first event, as the service's own limit is.

        Yields:
            (TOKEN, {"row", "text"}) for each chunk of each row, then (DONE, the response of `predict`).

        Raises:
            NotStreamable: the model does not generate text.
        """
        if self._generator is None:
            raise NotStreamable(f"{self.manifest.name} does not generate text; send the request without stream")
        self._batcher.check_admission(scheduling)
        request = await self._decode_predict(body, content_type)
        self._count_request(request)
        await self._content.take_request(request)
        prompts = _get_prompts(request)
        texts: list[list[str]] = [[] for _ in prompts]
        # Only the first event is due.
        later = None if scheduling is None else scheduling.without_deadline()
        async with contextlib.aclosing(self._generator.stream(prompts, request.options, later)) as chunks:
            chunk = await _await_first(chunks, scheduling)
            while chunk is not None:
                texts[chunk.row].append(chunk.text)
                yield events.TOKEN, encode_json(chunk._asdict())
                chunk = await anext(chunks, None)
        yield events.DONE, self.predict_codec.encode_predictions([{"text": "".join(parts)} for parts in texts])


async def _await_first(chunks: AsyncGenerator[TextChunk], scheduling: Scheduling | None) -> TextChunk | None:
    """Await the first chunk, until the deadline."""
    if scheduling is None or scheduling.deadline_s == math.inf:
        return await anext(chunks, None)
    try:
        async with asyncio.timeout(scheduling.remaining_s()):
            return await anext(chunks, None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"no first event within the request's timeout of {scheduling.timeout_s:g} s; set a longer one"
        ) from None


def _combine(scheduling: Scheduling | None, request: InferRequest) -> Scheduling:
    """Combine the headers with the parameters of Triton: the earlier deadline and the lower priority hold."""
    headers, timeout_s = scheduling or Scheduling(), request.timeout_s
    priority = max(headers.priority, request.priority)
    parameters = Scheduling(priority=priority) if timeout_s is None else Scheduling.after(timeout_s, priority)
    return min(headers._replace(priority=priority), parameters)


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
        request_timeout_s=endpoint.limits.request_timeout_s,
    )


def _build_generator(bundle: Bundle, batcher: Batcher) -> TextGenerator | None:
    schema, is_language_model = bundle.manifest.input_schema, bundle.manifest.output_schema.kind == "text"
    if not is_language_model or bundle.tokenizer is None or not isinstance(schema, TextInput):
        return None
    return TextGenerator(batcher.forward, bundle.tokenizer, schema.max_tokens)

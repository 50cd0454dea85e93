"""Shadow: copies of a share of a replica's requests go to a version beside it; nobody waits for their answers.

Request walk: deployments.models.replica -> [shadow.py] -> agreement.py
The directory tells with each renewal which replicas take copies, so that a replica without a shadow does nothing for
it. A copy is sent once the request's own response is there, and its answer is compared with that.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from deployments.access.caller import DEFAULT_TENANT, Caller
from deployments.access.scopes import Action, Scope
from deployments.edge.membership import fetch_edge_secret
from deployments.edge.node_tls import build_client_context
from deployments.edge.state import Instructions, ShadowTarget
from deployments.errors import CallError, InferenceFailed, QueueFull, Unavailable
from deployments.observability.private_errors import describe_error
from deployments.protocols.oip.binary import HEADER_LENGTH, parse_header_length
from deployments.rollout.agreement import have_same_predictions, have_same_tensors
from deployments.scaling.report import PairReport
from deployments.server.edge_check import CALLER_HEADER, SECRET_HEADER
from deployments.server.routes import Servable
from deployments.server.scheduling import Scheduling
from deployments.server.sse import Event
from deployments.settings import EdgeSettings
from deployments.specs.model_deployment import Endpoint

# Copies that are under way; where the new version is slower than they come, others are not sent.
MAX_COPIES = 16
# What a busy version answers tells nothing of its answers; as refusals and failures its own report has them.
NOT_COMPUTED = (QueueFull.status, Unavailable.status)
JSON = "application/json"
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Answer:
    """A response's body, and the length of its JSON part where tensors follow it."""

    body: bytes
    header_length: int | None = None


class ShadowedModel:
    """A servable that hands copies of its requests on."""

    def __init__(
        self,
        model: Servable,
        settings: EdgeSettings,
        *,
        is_classifier: bool,
        serve: Callable[[Servable], None],
    ) -> None:
        """Make one; it copies nothing before `follow`.

        Args:
            model: that answers.
            settings: of TLS between nodes.
            is_classifier: whether its tensors are scores of classes.
            serve: makes the replica's routes use another servable.
        """
        self._model, self._is_classifier, self._serve = model, is_classifier, serve
        self._settings = settings
        self.example, self.metadata = model.example, model.metadata
        self._target = ShadowTarget((), 0.0)
        self._http: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._secret = ""
        scope = Scope(Action.PREDICT, model.endpoint.name)
        self._caller = Caller(f"{DEFAULT_TENANT}/shadow", "shadow", (scope,)).encode()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pairs = self._agreements = self._dropped = 0

    @property
    def endpoint(self) -> Endpoint:
        """What is served."""
        return self._model.endpoint

    def follow(self, instructions: Instructions) -> None:
        """Copy requests as the directory says."""
        was_active, self._target = bool(self._target.addresses), instructions.shadow or ShadowTarget((), 0.0)
        is_active = bool(self._target.addresses)
        if is_active != was_active:
            # Without a shadow, no request takes a step more.
            self._serve(self if is_active else self._model)

    def report(self) -> PairReport:
        """Pairs of answers so far."""
        return PairReport(self._pairs, self._agreements, self._dropped)

    async def infer(
        self, body: bytes, header_length: int | None = None, scheduling: Scheduling | None = None
    ) -> tuple[bytes, int | None]:
        """Run an Open Inference Protocol request."""
        try:
            response = await self._model.infer(body, header_length, scheduling)
        except CallError as error:
            self._copy_failed(error, "infer", body, JSON, header_length)
            raise
        self._copy(Answer(*response), "infer", body, JSON, header_length)
        return response

    async def predict(
        self, body: bytes, content_type: str, request_id: str | None = None, scheduling: Scheduling | None = None
    ) -> bytes:
        """Run a `predict` request."""
        try:
            response = await self._model.predict(body, content_type, request_id, scheduling)
        except CallError as error:
            self._copy_failed(error, "predict", body, content_type, None)
            raise
        self._copy(Answer(response), "predict", body, content_type, None)
        return response

    def stream(self, body: bytes, content_type: str, scheduling: Scheduling | None = None) -> AsyncGenerator[Event]:
        """Run a request whose response grows; it is not copied."""
        return self._model.stream(body, content_type, scheduling)

    def _copy_failed(self, error: CallError, *request: Any) -> None:
        """Copy what the version failed for, so that the new one gets no easier requests; callers' mistakes are none."""
        if error.status >= 500 or isinstance(error, InferenceFailed):
            self._copy(None, *request)

    def _copy(self, answer: Answer | None, path: str, body: bytes, content_type: str, length: int | None) -> None:
        addresses = self._target.addresses
        if not addresses or random.random() * 100 >= self._target.percent:
            return
        if len(self._tasks) >= MAX_COPIES:
            self._dropped += 1
            return
        # Before the task's first step the directory may have taken the target away.
        address = random.choice(addresses)
        task = asyncio.get_running_loop().create_task(self._send(address, answer, path, body, content_type, length))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(
        self, address: str, answer: Answer | None, path: str, body: bytes, content_type: str, length: int | None
    ) -> None:
        endpoint, http = self.endpoint, await self._open()
        headers = {"content-type": content_type or JSON, SECRET_HEADER.decode(): self._secret}
        headers[CALLER_HEADER.decode()] = self._caller
        if length is not None:
            headers[HEADER_LENGTH.decode()] = str(length)
        try:
            url = f"{'https' if self._settings.node_tls_ca else 'http'}://{address}/v2/models/{endpoint.name}/{path}"
            timeout_s = endpoint.limits.request_timeout_s
            response = await http.post(url, content=body, headers=headers, timeout=timeout_s)
        except httpx.HTTPError:
            # A replica that leaves takes no more; what others do is in their reports.
            self._dropped += 1
            return
        if response.status_code in NOT_COMPUTED:
            self._dropped += 1
            return
        if answer is None:
            return
        try:
            is_same = response.status_code == 200 and self._is_same(path, answer, response)
        except Exception as error:
            logger.error("an answer of the shadow of %s cannot be compared\n%s", endpoint.name, describe_error(error))
            is_same = False
        self._pairs += 1
        self._agreements += is_same

    def _is_same(self, path: str, answer: Answer, response: httpx.Response) -> bool:
        if path == "predict":
            return have_same_predictions(answer.body, response.content)
        header = response.headers.get(HEADER_LENGTH.decode(), "").encode()
        length = parse_header_length(header, len(response.content))
        return have_same_tensors(
            (answer.body, answer.header_length), (response.content, length), is_classifier=self._is_classifier
        )

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._http is None:
                context = build_client_context(self._settings)
                self._secret = await fetch_edge_secret()
                self._http = httpx.AsyncClient(verify=context or False, trust_env=False)
        return self._http

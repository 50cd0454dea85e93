"""Calls that come through Serve's handles: from the control application, from gRPC's gateway, from a pipeline.

Request walk: control.py, rpc/gateway.py or pipelines/replica.py -> [by_handle.py] -> replica.py or pipelines/runner.py
An error would reach the caller as a traceback of its own kind; it goes as a status and a body instead.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from deployments.errors import ClientError, DeadlineExceeded, encode_error
from deployments.server.routes import Servable


class HandleApi:
    """The methods of a replica that answers; `answering` is what does."""

    servable: Servable

    async def infer(self, version: str, raw: bytes, header_length: int | None) -> tuple[int, str, bytes, int | None]:
        """An Open Inference Protocol request; returns status, code, body, its JSON part's length."""
        try:
            self.servable.check_version(version)
            return 200, "", *await self.servable.infer(raw, header_length)
        except ClientError as error:
            return error.status, error.code, error.message.encode(), None

    async def metadata(self, version: str) -> tuple[int, str, bytes, None]:
        """The model's metadata; returns as `infer` does."""
        try:
            self.servable.check_version(version)
            return 200, "", self.servable.metadata, None
        except ClientError as error:
            return error.status, error.code, error.message.encode(), None

    async def predict(
        self, raw: bytes, content_type: str, request_id: str | None, within_s: float | None = None
    ) -> tuple[int, bytes]:
        """A request in words, given up after within_s; returns status and body."""
        limit_s = self.servable.endpoint.limits.request_timeout_s
        limit_s = limit_s if within_s is None else min(within_s, limit_s)
        try:
            async with asyncio.timeout(limit_s):
                return 200, await self.servable.predict(raw, content_type, request_id, within_s)
        except ClientError as error:
            return error.status, encode_error(error.code, error.message, request_id)
        except TimeoutError:
            late = DeadlineExceeded(f"no answer within {limit_s:.3g} s; try again, or send less")
            return late.status, encode_error(late.code, late.message, request_id)

    async def stream(
        self, raw: bytes, content_type: str, request_id: str | None
    ) -> AsyncGenerator[tuple[int, str, bytes]]:
        """The same for a stream: each event with its status; one that is not 200 is an error's, and the last."""
        async with contextlib.aclosing(self.servable.stream(raw, content_type)) as events:
            try:
                async for name, data in events:
                    yield 200, name, data
            except ClientError as error:
                yield error.status, "error", encode_error(error.code, error.message, request_id)

"""Serve's handles, faked: what a call of them got, and what it returns."""

import asyncio
from typing import Any

from deployments.access.usage.call_event import CallEvent


class FakeResponse:
    """A handle's response: a unary result is awaited, a stream's items are iterated; exceptions are raised."""

    def __init__(self, result: Any, assigned: bool = True) -> None:
        self._items = iter(result if isinstance(result, list) else [result])
        self.canceled = False
        self._replica_result_future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if assigned:
            self._replica_result_future.set_result(self)

    def cancel(self) -> None:
        self.canceled = True

    def __await__(self) -> Any:
        return self.__anext__().__await__()

    async def __anext__(self) -> Any:
        for item in self._items:
            if isinstance(item, BaseException):
                raise item
            return await item if asyncio.iscoroutine(item) else item
        raise StopAsyncIteration


class FakeHandle:
    """A deployment's handle; each call takes the next of `results`, and `calls` records method and arguments."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.responses: list[FakeResponse] = []
        self.calls: list[tuple[Any, ...]] = []
        self.callers: list[str] = []
        self.events: list[CallEvent | None] = []

    def options(self, method_name: str, stream: bool) -> Any:
        def remote(*arguments: Any, caller: str, event: CallEvent | None) -> FakeResponse:
            self.callers.append(caller)
            self.events.append(event)
            assert stream == (method_name == "stream")
            self.calls.append((method_name, *arguments))
            result = self.results.pop(0)
            self.responses.append(result if isinstance(result, FakeResponse) else FakeResponse(result))
            return self.responses[-1]

        return type("Method", (), {"remote": staticmethod(remote)})

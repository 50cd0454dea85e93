"""Observation: errors are counted by their code, whoever raises them, and each request once."""

import pytest

from deployments.access.authorization import Authorization
from deployments.errors import QueueFull
from deployments.observability.observation import Observation
from deployments.server.edge_check import SECRET_HEADER
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.settings import Limits
from tests.deployments.server.captured_request import CapturedRequest

SECRET = "k"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_errors_of_layers_and_handlers_are_counted_by_code() -> None:
    async def handle(request: Request) -> Response:
        if request.path == "/full":
            raise QueueFull("full")
        if request.path == "/bug":
            raise ZeroDivisionError
        return Response(200, b"")

    observation = Observation()
    app = compose_http(
        handler=handle,
        limits=Limits(max_queue=1),
        secret=SECRET,
        authorization=Authorization(),
        observation=observation,
    )
    for path, secret, status in (
        ("/", SECRET, 200),
        ("/", "wrong", 403),
        ("/full", SECRET, 429),
        ("/bug", SECRET, 500),
    ):
        request = CapturedRequest(path, b"", [(SECRET_HEADER, secret.encode())])
        assert (await request.answer(app))[0] == status

    assert observation.statistics.errors == {"not_from_edge": 1, "queue_full": 1, "internal": 1}

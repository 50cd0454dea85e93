"""An edge's refusals become rows: counted exactly, and so few that no flood fills a database."""

import json

import pytest

from deployments.access.audit.refusals import BURST_ROWS, MAX_DISTINCT, ROWS_PER_S, Refusal, RefusalCounter


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counter(clock: Clock) -> RefusalCounter:
    return RefusalCounter(clock)


def make_line(path: str = "/v2/models/flowers/predict", status: int = 401, **fields: str) -> bytes:
    values = {
        "grpc_status": "",
        "caller": "-",
        "source": "10.0.0.1",
        "method": "POST",
        "path": path,
        "problem": "no key",
    }
    strings = "".join(f',"{name}":{json.dumps(value)}' for name, value in (values | fields).items())
    return f'{{"status":{status}{strings}}}\n'.encode()


def test_refusals_that_are_alike_are_one_with_its_count(counter: RefusalCounter) -> None:
    counter.count(make_line() * 3 + make_line(status=403, caller="team/ann", problem="") + make_line(source="::1"))

    assert counter.take() == [
        Refusal("", "10.0.0.1", "POST /v2/models/flowers/predict", "401", "no key", 3),
        Refusal("team/ann", "10.0.0.1", "POST /v2/models/flowers/predict", "403", "", 1),
        Refusal("", "::1", "POST /v2/models/flowers/predict", "401", "no key", 1),
    ]
    assert counter.take() == []


def test_a_row_says_who_from_where_what_and_how_often() -> None:
    event = Refusal("", "10.0.0.1", "GET /docs", "401", "no API key", 7).to_event()

    assert (event.actor, event.source, event.action) == ("unknown", "10.0.0.1", "access.refused")
    assert (event.target, event.outcome, event.message) == ("GET /docs", "refused", "no API key")
    assert event.after == {"status": 401, "count": 7}


@pytest.mark.parametrize(("code", "status"), [("16", "401"), ("7", "403")])
def test_codes_of_grpc_are_those_of_http(counter: RefusalCounter, code: str, status: str) -> None:
    path = "/inference.GRPCInferenceService/ModelInfer"
    counter.count(make_line(path, 200, grpc_status=code) + make_line(path, 200, grpc_status="5") + make_line(path, 200))

    (refusal,) = counter.take()
    assert (refusal.request, refusal.status, refusal.count) == (f"gRPC {path}", status, 1)


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/v2/models/flowers/versions/3/infer", "GET /v2/models/flowers/versions/3/infer"),
        ("/api/v1/keys/k1/rotate", "GET /api/v1/keys/k1/rotate"),
        ("/docs", "GET /docs"),
        ("/", "GET /"),
        ('/a"},{"status":200', 'GET /a"},{"status":200/…'),
        ("/wp-admin/" + "x" * 300, "GET /wp-admin/…"),
        ("/" + "y" * 300, f"GET /{'y' * 40}/…"),
        ("/v2/models/" + "z" * 64, "GET /v2/…"),
    ],
)
def test_a_path_that_means_nothing_here_counts_by_its_first_part(
    counter: RefusalCounter, path: str, request_: str
) -> None:
    counter.count(make_line(path, method="GET"))

    (refusal,) = counter.take()
    assert refusal.request == request_


def test_lines_of_other_requests_and_broken_ones_are_none(counter: RefusalCounter) -> None:
    counter.count(b'{"status":200}\nnonsense\n{"status":401,"caller"\n' + make_line(status=404) + make_line(status=400))
    counter.count(make_line('/x","status":401,"y":"', status=404))

    assert counter.take() == []


def test_a_flood_is_few_rows_however_different_it_is_and_each_refusal_is_counted(
    counter: RefusalCounter, clock: Clock
) -> None:
    rows, sent = [], 0
    for second in range(60):
        for part in range(4):
            lines = [make_line(source=f"10.{second % 256}.{part}.{number % 256}") for number in range(250)]
            counter.count(b"".join(lines))
            sent += len(lines)
        clock.now_s += 1
        rows += counter.take()
        assert len(counter._pending) <= MAX_DISTINCT + 1

    assert len(rows) <= BURST_ROWS + 60 * ROWS_PER_S + 1
    assert sum(row.count for row in rows) + counter._pending.total() == sent
    others = [row for row in rows if row.caller == "others"]
    assert others
    # What is frequent has a row of its own soon, whatever else there is.
    counter.count(make_line(source="192.168.0.1") * 10**5)
    clock.now_s += 2
    assert max(counter.take(), key=lambda row: row.count).count >= 10**5


def test_what_could_not_be_handed_on_is_counted_on(counter: RefusalCounter) -> None:
    counter.count(make_line() * 2)
    refused = counter.take()
    counter.count(make_line())
    counter.put_back(refused)

    assert [refusal.count for refusal in counter.take()] == [3]

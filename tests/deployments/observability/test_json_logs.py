"""Logs as JSON: one object a line with the request's id, and readable text from it."""

import json
import logging
import sys

from deployments.observability.json_logs import JsonFormatter, render_line


def make_record(message: str, *, request_id: str = "", with_error: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("why")
    except ValueError:
        error = sys.exc_info() if with_error else None
    record = logging.LogRecord("ray.serve", logging.ERROR, __file__, 1, message, None, error)
    if request_id:
        record.request_id = request_id
    return record


def test_a_record_is_one_line_with_the_requests_id_and_the_exception() -> None:
    line = JsonFormatter().format(make_record('two\nlines and "quotes"', request_id="r1", with_error=True))

    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["levelname"], fields["request_id"]) == ("ERROR", "r1")
    assert fields["message"] == 'two\nlines and "quotes"'
    assert "ValueError: why" in fields["exc_text"]


def test_a_line_of_json_is_shown_as_text() -> None:
    line = render_line(JsonFormatter().format(make_record("failed", request_id="r1", with_error=True)))

    assert line.startswith("ERROR ")
    assert "[r1] failed\nTraceback" in line


def test_what_is_no_log_record_is_shown_as_it_is() -> None:
    for line in ("plain", '{"status":200}', "{broken", "[1]", ""):
        assert render_line(line) == line

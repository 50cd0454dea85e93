"""JSON logs: one object a line, with the id of the request, for a process that Serve does not configure."""

import json
import logging
from typing import Literal

LogFormat = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """The keys that Serve's own JSON has: asctime, levelname, message, exc_text, and request_id where it is known."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        fields = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if request_id := getattr(record, "request_id", None):
            fields["request_id"] = request_id
        if record.exc_info:
            fields["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_logging(log_format: LogFormat) -> None:
    """Log warnings of this process in JSON where that is wanted."""
    if log_format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def render_line(line: str) -> str:
    """Turn a line of a JSON log into text for a person; any other line stays as it is, requests of the edge too."""
    if not line.startswith("{"):
        return line
    try:
        fields = json.loads(line)
        head = f"{fields['levelname']} {fields['asctime']}"
        message = fields["message"]
    except (ValueError, KeyError, TypeError):
        return line
    request_id = f" [{fields['request_id']}]" if fields.get("request_id") else ""
    exception = f"\n{fields['exc_text']}" if fields.get("exc_text") else ""
    return f"{head}{request_id} {message}{exception}"

"""The errors that training, bundles and the registry raise.

Every message gives the value, the rule and the remedy. `UserError`: the caller can correct it (the command line exits
with 2). `ServiceError`: what was asked was valid, and failed (exit code 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class ShoalError(Exception):
    """Base class of what Shoal raises; its message is one line."""


class UserError(ShoalError):
    """The request is invalid: a name, a value or a file is wrong."""


class BundleError(UserError):
    """A bundle that cannot be read or fails its checks; the message names the file."""


class ServiceError(ShoalError):
    """A valid request that failed."""


def summarize_validation_error(error: ValidationError) -> str:
    """Format all problems of a validation in one line: location, message, value."""
    problems = []
    for item in error.errors(include_url=False):
        # Both may quote what was given, of any length and with line breaks.
        location = " ".join(".".join(str(part)[:100] for part in item["loc"]).split())
        message = " ".join(item["msg"].removeprefix("Value error, ").split())[:1000]
        # The value of a whole model would be all its keys.
        shows_value = location and item["type"] not in ("missing", "extra_forbidden", "renamed_key")
        value = f" (got {item['input']!r:.80})" if shows_value else ""
        problems.append(f"{location}: {message}{value}" if location else message)
    return "; ".join(problems)

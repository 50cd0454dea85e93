"""The errors that training, bundles and the registry raise.

Every message gives the value, the rule and the remedy. `UserError`: the caller can correct it (the command line exits
with 2). `ServiceError`: what was asked was valid, and failed (exit code 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

Location = tuple[int | str, ...]
"""Where a value is in a model: keys, indices, and tags of unions."""


class ShoalError(Exception):
    """Base class of what Shoal raises; its message is one line."""


class UserError(ShoalError):
    """The request is invalid: a name, a value or a file is wrong."""


class BundleError(UserError):
    """A bundle that cannot be read or fails its checks; the message names the file."""


class ServiceError(ShoalError):
    """A valid request that failed."""


def suggest_key(key: str, valid_keys: Iterable[str]) -> str:
    """Say what to write instead of an unknown key: the most similar one, and all that there are."""
    from difflib import get_close_matches

    keys = list(valid_keys)
    similar = [f"did you mean {match!r}? " for match in get_close_matches(key, keys, n=1)]
    return f"{''.join(similar)}valid keys: {', '.join(keys)}"


def summarize_validation_error(
    error: ValidationError, list_valid_keys: Callable[[Location], Iterable[str]] | None = None
) -> str:
    """Format all problems of a validation in one line: location, message, value.

    Args:
        error: of Pydantic.
        list_valid_keys: returns the keys that the model at a location has, none if that is not known; an unknown key
            is refused with them.
    """
    problems = []
    for item in error.errors(include_url=False):
        # Both may quote what was given, of any length and with line breaks.
        location = " ".join(".".join(str(part)[:100] for part in item["loc"]).split())
        message = " ".join(item["msg"].removeprefix("Value error, ").split())[:1000]
        if item["type"] == "extra_forbidden" and list_valid_keys:
            valid_keys = list(list_valid_keys(item["loc"][:-1]))
            message = f"no such key; {suggest_key(str(item['loc'][-1])[:100], valid_keys)}" if valid_keys else message
        # The value of a whole model would be all its keys.
        shows_value = location and item["type"] not in ("missing", "extra_forbidden", "renamed_key")
        value = f" (got {item['input']!r:.80})" if shows_value else ""
        problems.append(f"{location}: {message}{value}" if location else message)
    return "; ".join(problems)

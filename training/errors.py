"""The errors that training, bundles and the registry raise.

Every message gives the value, the rule and the remedy. `UserError`: the caller can correct it (the command line exits
with 2). `ServiceError`: what was asked was valid, and failed (exit code 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
"""Where a value is in a model: keys, indices, and tags of unions."""


class ShoalError(Exception):
    """Base class of what Shoal raises; its message is one line."""


class UserError(ShoalError):
    """The request is invalid: a name, a value or a file is wrong."""


class BundleError(UserError):
    """A bundle that cannot be read or fails its checks; the message names the file."""


class UntrustedBundleError(UserError):
    """A bundle that may not be deployed: no signature that counts says where it is from."""


class StoreUnavailable(UserError):
    """A database or registry that cannot be opened now: its URI is wrong, or its server does not answer."""


class ServiceError(ShoalError):
    """A valid request that failed."""


def suggest_key(key: str, valid_keys: Iterable[str]) -> str:
    """Say what to write instead of an unknown key: the most similar one, and all that there are."""
    from difflib import get_close_matches

    keys = list(valid_keys)
    similar = [f"did you mean {match!r}? " for match in get_close_matches(key, keys, n=1)]
    return f"{''.join(similar)}valid keys: {', '.join(keys)}"


def summarize_validation_error(
    error: ValidationError,
    list_valid_keys: Callable[[Location], Iterable[str]] | None = None,
    *,
    simplify: Callable[[Location], Location] = tuple,
) -> str:
    """Format all problems of a validation in one line: location, message, value.

    Args:
        error: of Pydantic.
        list_valid_keys: returns the keys that the model at a location has, none if that is not known; an unknown key
            is refused with them.
        simplify: takes what the user did not write, as the tags of unions, out of a location.
    """
    problems = []
    for item in error.errors(include_url=False):
        # Both may quote what was given, of any length and with line breaks.
        location = " ".join(".".join(str(part)[:100] for part in simplify(item["loc"])).split())
        message = " ".join(_describe_problem(item).split())[:1000]
        if item["type"] == "extra_forbidden" and list_valid_keys:
            valid_keys = list(list_valid_keys(item["loc"][:-1]))
            message += f"; {suggest_key(str(item['loc'][-1])[:100], valid_keys)}" if valid_keys else ""
        # The value of a whole model would be all its keys.
        shows_value = location and item["type"] not in ("missing", "extra_forbidden", "renamed_key")
        value = f" (got {item['input']!r:.80})" if shows_value else ""
        problems.append(f"{location}: {message}{value}" if location else message)
    return "; ".join(problems)


# Where the validator's own words are those of Python.
_PROBLEMS = {
    "extra_forbidden": "no such key",
    "missing": "is missing; give it",
    "tuple_type": "is no list; write [...]",
    "list_type": "is no list; write [...]",
    "dict_type": "is no mapping of names to values",
    "model_type": "is no mapping of keys to values",
    "model_attributes_type": "is no mapping of keys to values",
    "float_parsing": "is no number",
    "float_type": "is no number",
    "int_parsing": "is no whole number",
    "int_type": "is no whole number",
    "string_type": "is no text",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
}


def _describe_problem(item: ErrorDetails) -> str:
    """One problem in words that need no Python."""
    context = item.get("ctx", {})
    if item["type"] == "union_tag_not_found":
        return f"has no key {context['discriminator']}; give it"
    if item["type"] == "union_tag_invalid":
        return f"{context['discriminator']} is {context['tag']!r}; make it one of {context['expected_tags']}"
    if item["type"] == "string_pattern_mismatch":
        return f"does not match the pattern {context['pattern']}"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be ", "make it ", 1)
    return _PROBLEMS.get(item["type"], message)

"""Closed models: what every file and setting of Shoal is checked with."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Closed(BaseModel):
    """A frozen model that refuses keys it does not know: a misspelt setting is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def one_line(error: ValidationError) -> str:
    """Say all that a validation found in one line: where, what, and the value."""
    problems = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "value"
        got = "" if item["type"] in ("missing", "extra_forbidden") else f" (got {item['input']!r:.80})"
        problems.append(f"{where}: {item['msg']}{got}")
    return "; ".join(problems)

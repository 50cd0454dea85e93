"""Strict JSON: what two parsers could read in two ways is refused, since one may have checked what another uses.

Request walk: tokens.py -> [strict_json.py]
"""

import json
from typing import Any


def parse_strict_json(content: bytes) -> Any:
    """Parse JSON in UTF-8.

    Raises:
        ValueError: it is none, has a name twice in one object, NaN or infinity, or is nested too deeply.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_build_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("JSON has a name twice in one object")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")

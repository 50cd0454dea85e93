"""Quantities on the command line: times and shares, with the units that people write."""

import math

import typer

SECONDS, SHARE = "SECONDS", "SHARE"
"""Metavars."""

_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0}


def parse_seconds(text: str) -> float:
    """Parse a time: 0.05, 0.05s or 50ms."""
    number = text.strip()
    unit = next(unit for unit in _UNITS if number.endswith(unit))
    seconds = _parse_number(number.removesuffix(unit))
    if seconds is None:
        raise typer.BadParameter(f"{text!r} is no time; write seconds, 0.05 or 0.05s, or milliseconds, 50ms")
    return seconds * _UNITS[unit]


def parse_goal(text: str) -> float:
    """Parse a time above 0."""
    seconds = parse_seconds(text)
    if seconds <= 0:
        raise typer.BadParameter(f"{text!r} is not above 0; write seconds, 0.05 or 0.05s, or milliseconds, 50ms")
    return seconds


def parse_share(text: str) -> float:
    """Parse a share between 0 and 1: 95% or 0.95."""
    number = text.strip()
    share = _parse_number(number.removesuffix("%"))
    if share is not None and number.endswith("%"):
        share /= 100
    if share is None or not 0 < share < 1:
        raise typer.BadParameter(f"{text!r} is no share between 0% and 100%; write 95% or 0.95")
    return share


def _parse_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

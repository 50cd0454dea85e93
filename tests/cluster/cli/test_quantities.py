"""Times and shares as people write them."""

import pytest
import typer

from cluster.cli.quantities import parse_goal, parse_seconds, parse_share
from tests.conftest import ShoalCli


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.05", 0.05), ("0.05s", 0.05), ("50ms", 0.05), (" 50 ms ", 0.05), ("0", 0.0), ("-1", -1.0)]
)
def test_a_time_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "fast", "50 m", "nan", "infs", "5%"])
def test_what_is_no_time_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is no time; write seconds, 0\.05 or 0\.05s, or milliseconds, 50ms"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["0", "-1", "0ms"])
def test_a_goal_is_above_0(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is not above 0; write seconds, 0\.05"):
        parse_goal(text)


@pytest.mark.parametrize(("text", "share"), [("95%", 0.95), ("0.95", 0.95), ("99.5 %", 0.995), ("0.5%", 0.005)])
def test_a_share_is_a_percentage_or_a_number_below_1(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["95", "100%", "1", "0", "-5%", "most", "", "%", "nan%"])
def test_what_is_no_share_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is no share between 0% and 100%; write 95% or 0\.95"):
        parse_share(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slo-p99", "fast"), "'--slo-p99': 'fast' is no time; write seconds"),
        (("--shadow", "10%", "--min-agreement", "95"), "'--min-agreement': '95' is no share"),
        (("--canary", "5%", "--min-step", "1h"), "'--min-step': '1h' is no time"),
    ],
)
def test_a_command_names_the_option(shoal: ShoalCli, options: tuple[str, ...], message: str) -> None:
    result = shoal("deploy", "flowers", *options)

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_a_command_takes_units(shoal: ShoalCli) -> None:
    result = shoal("deploy", "flowers:2", "--shadow", "10%", "--min-agreement", "95%", "--slo-p99", "50ms")

    # What it lacks is a cluster alone.
    assert "no cluster runs" in result.stderr

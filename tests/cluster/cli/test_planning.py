"""`shoal profile` and `shoal plan` of a published version that no cluster serves."""

import json
import re
from pathlib import Path

import pytest

from deployments.scaling.profile import describe_cpu
from tests.cluster.cli.conftest import make_in_process_cli
from tests.conftest import ShoalCli
from tests.small_bundles import save_table


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SHOAL_HOME with one model, `flowers`, that was profiled."""
    folder = tmp_path_factory.mktemp("planning")
    shoal = make_in_process_cli(folder / "home")
    save_table(folder / "bundle")
    assert shoal("models", "import", str(folder / "bundle")).returncode == 0
    result = shoal("profile", "flowers", "--slo-p99", "1", "--json")
    assert result.returncode == 0, result.stderr
    (folder / "profile.json").write_text(result.stdout)
    return folder / "home"


@pytest.fixture
def flowers(home: Path) -> ShoalCli:
    return make_in_process_cli(home)


def test_a_version_that_is_not_deployed_is_measured_here_with_the_threads_of_a_replica(home: Path) -> None:
    described = json.loads((home.parent / "profile.json").read_text())

    (profile,) = described["profiles"]
    assert "in a process of this machine" in described["source"]
    assert (profile["variant"], profile["threads"]) == ("fp32", 1)
    assert [timing["rows"] for timing in profile["passes"]][:3] == [1, 2, 4]
    assert profile["request_s"] > 0
    assert profile["max_rps"] > 0
    assert profile["pass_rows"] in [timing["rows"] for timing in profile["passes"]]


def test_the_profile_is_kept_and_read_by_the_next_command(home: Path, flowers: ShoalCli) -> None:
    before = json.loads((home.parent / "profile.json").read_text())

    again = json.loads(flowers("profile", "flowers", "--json").stdout)

    assert again["profiles"][0]["measured_at"] == before["profiles"][0]["measured_at"]
    assert again["profiles"][0]["max_rps"] is None  # without a goal


def test_a_profile_is_printed_and_plotted(flowers: ShoalCli, tmp_path: Path) -> None:
    result = flowers("profile", "flowers:1", "--slo-p99", "1", "--plot", str(tmp_path / "curve.png"))

    assert f"flowers:1 fp32 on {describe_cpu()}" in result.stdout
    assert re.search(r"^p99 within 1000 ms: up to [\d,.e+]+ requests/s a replica", result.stdout, re.MULTILINE)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_names_replicas_variant_reason_and_where_it_was_measured(flowers: ShoalCli) -> None:
    printed = flowers("plan", "flowers", "--rps", "1", "--slo-p99", "1").stdout
    planned = json.loads(flowers("plan", "flowers", "--rps", "1", "--slo-p99", "1", "--json").stdout)

    plan = planned["plan"]
    assert (plan["variant"], plan["replicas"]) == ("fp32", 1)
    assert 0 < plan["p50_s"] <= plan["p99_s"] <= 1
    assert planned["command"] == "shoal deploy flowers:1 --slo-p99 1 --max-replicas 1"
    assert f"why: {plan['reason']}" in printed
    assert "the way through the edge is not counted" in printed
    assert "next: shoal deploy flowers:1" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "flowers", "--rps", "500"], "flowers has no goal; give one: --slo-p99 SECONDS"),
        (["plan", "flowers", "--slo-p99", "1"], "Missing option '--rps'"),
        (["plan", "flowers", "--rps", "0", "--slo-p99", "1"], "--rps"),
        (["plan", "flowers", "--rps", "500", "--slo-p99", "0.000001"], "within 1e-06 s: one without any other load"),
        (["plan", "roses", "--rps", "500", "--slo-p99", "1"], "no model 'roses'"),
        (["plan", "flowers:9", "--rps", "500", "--slo-p99", "1"], "9"),
        (["profile", "flowers", "--slo-p99", "-1"], "--slo-p99"),
        (["profile", "flowers", "--plot", "curve.svg"], "curve.svg is no .png file"),
        (["deploy", "flowers", "--slo-p99", "-1"], "slo_p99_s"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(flowers: ShoalCli, arguments: list[str], message: str) -> None:
    result = flowers(*arguments)

    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert result.stderr.count("\n") == 1

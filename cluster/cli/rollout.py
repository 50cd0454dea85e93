"""Subcommands of a rollout beside the deployed version: its status and evidence, promote, abort."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.completion import complete_models
from cluster.cli.quantities import SECONDS, SHARE, parse_seconds, parse_share
from cluster.cli.terminal import Json, context, make_table, print_json, print_line, print_table, show_status
from training.errors import UserError

if TYPE_CHECKING:
    from deployments.rollout.canary import Canary, MetricEvidence, SampleEvidence

app = typer.Typer(help="Canaries and shadows: versions beside the deployed one.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_models)]

# Options of `deploy`.
CanaryPercent = Annotated[
    str | None, typer.Option(metavar="PERCENT", help="Beside the deployed version, for a share of the requests.")
]
Steps = Annotated[str | None, typer.Option(metavar="PERCENTS", help="Shares of a canary, rising to 100: 5,25,50,100.")]
ShadowPercent = Annotated[
    str | None, typer.Option(metavar="PERCENT", help="Send it copies of a share of the requests.")
]
SplitBy = Annotated[
    str, typer.Option(metavar="BY", help="What a canary's share is of: caller, request or header:NAME.")
]
MinStep = Annotated[
    float | None,
    typer.Option(parser=parse_seconds, metavar=SECONDS, help="Seconds that a canary's step lasts at least."),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        parser=parse_share, metavar=SHARE, help="Share of shadow copies whose answers must agree: 95%, or 0.95."
    ),
]

DEFAULT_SHARES = (25.0, 50.0, 100.0)
"""What follows the percent of --canary, as far as it is more."""


@app.command()
def status(name: Name, as_json: Json = False) -> None:
    """Show the last rollout of a model.

    Its step; counts, intervals, evidence and verdict of each metric; the steps before.
    Intervals hold at all times together with 95%. Evidence is how many times more likely what was seen is if the new
    version is worse (or, for the second, no worse) than if not; a verdict falls at the number behind the slash.
    """
    from cluster.shoal import Shoal

    canary = Shoal(context.settings).get_rollout(name)
    if as_json:
        values = canary.model_dump(mode="json") | {"percent": canary.percent, "missing": _get_missing(canary)}
        print_json(values)
        return
    print_line(describe_rollout(canary))
    _print_evidence(canary)
    if canary.state.history:
        table = make_table("step", "began", "seconds", "verdict", "why", wrapped=("why",))
        for each in canary.state.history:
            began = datetime.fromtimestamp(each.started_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
            seconds = f"{each.ended_s - each.started_s:.0f}"
            table.add_row(f"{each.percent:g}%", began, seconds, each.verdict, each.reason)
        print_table(table)


@app.command()
def promote(name: Name) -> None:
    """Deploy the new version, whatever is shown."""
    from cluster.shoal import Shoal

    with show_status(f"promoting {name}") as on_status:
        canary = Shoal(context.settings).promote_rollout(name, on_status=on_status)
    print_line(f"promoted {name}:{canary.spec.version}; it has taken the place of version {canary.spec.stable_version}")


@app.command()
def abort(name: Name) -> None:
    """End a rollout; the old version serves."""
    from cluster.shoal import Shoal

    with show_status(f"aborting {name}") as on_status:
        canary = Shoal(context.settings).abort_rollout(name, on_status=on_status)
    print_line(f"aborted the rollout of {name}:{canary.spec.version}; version {canary.spec.stable_version} serves")


def build_plan(
    canary: str | None,
    steps: str | None,
    shadow: str | None,
    split: str,
    min_step: float | None,
    min_agreement: float | None,
) -> dict[str, Any]:
    """Parse the options of `deploy` that make it a rollout; empty for none.

    Raises:
        UserError: they do not fit one another.
    """
    if canary is None and steps is None and shadow is None:
        if split or min_step is not None or min_agreement is not None:
            raise UserError(
                "--split, --min-step and --min-agreement are of a rollout; give --canary 5% or --shadow 10% too"
            )
        return {}
    percents = [_parse_percent("--steps", each) for each in steps.split(",")] if steps is not None else []
    if percents != sorted(set(percents)):
        raise UserError(f"--steps {steps}: each must be more than the one before, up to 100; for example 5,25,50,100")
    if canary is not None:
        first = _parse_percent("--canary", canary)
        if first == 100:
            raise UserError("--canary 100% compares nothing; leave it out to deploy the version, or start with 5%")
        percents = percents or [first, *(share for share in DEFAULT_SHARES if share > first)]
        if percents[0] != first:
            raise UserError(f"--canary {first:g}% is not the first of --steps {percents[0]:g}%; leave one of them out")
    if min_agreement is not None and shadow is None:
        raise UserError("--min-agreement compares answers to the same requests; give --shadow 10% too")
    from deployments.rollout.criteria import Criteria

    return {
        "steps": percents,
        "split_by": split,
        "shadow_percent": 0.0 if shadow is None else _parse_percent("--shadow", shadow),
        "min_step_s": min_step,
        "criteria": Criteria(min_agreement=min_agreement),
    }


def _parse_percent(option: str, text: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        raise UserError(f"{option}: {text!r} is no percentage; write 5% or 5") from None
    if not 0 < percent <= 100:
        raise UserError(f"{option}: {text!r} is not above 0% and up to 100%; write 5% or 5")
    return percent


def describe_rollout(canary: "Canary") -> str:
    """Say in a line what a rollout is at."""
    spec, state = canary.spec, canary.state
    line = f"{spec.name}:{spec.version} beside version {spec.stable_version}: {state.phase.replace('_', ' ')}"
    if state.phase == "running" and spec.steps:
        line += f", step {state.step + 1} of {len(spec.steps)} ({canary.percent:g}% by {spec.split_by})"
    if state.phase == "running" and spec.shadow_percent:
        line += f", copies of {spec.shadow_percent:g}%"
    if state.phase == "running":
        line += f", {state.verdict}"
    return line + (f": {state.reason}" if state.reason else "")


def _print_evidence(canary: "Canary") -> None:
    evidence = canary.state.evidence
    if not evidence:
        return
    versions = f"version {canary.spec.stable_version}", f"version {canary.spec.version}"
    table = make_table("metric", *versions, "worse", "no worse", "verdict")
    for each in evidence:
        stable = "" if each.stable is None else _format_sample(each, each.stable)
        levels = (
            "" if value is None else f"{value:.3g}/{limit:.3g}"
            for value, limit in (
                (each.worse_evidence, each.worse_at),
                (each.noninferior_evidence, each.noninferior_at),
            )
        )
        table.add_row(each.metric, stable, _format_sample(each, each.canary), *levels, each.verdict or "shown only")
    print_table(table)


def _format_sample(evidence: "MetricEvidence", sample: "SampleEvidence") -> str:
    from deployments.scaling.report import MAX_LATENCY_S

    if sample.value is None:
        return "none yet"
    if evidence.metric in ("errors", "refusals", "agreement"):
        return f"{sample.value:.2%} of {sample.total:,} ({sample.low:.2%} to {sample.high:.2%})"
    high = f"{sample.high * 1000:.3g}" if sample.high < MAX_LATENCY_S else "any"
    return f"{sample.value * 1000:.3g} ms ({sample.low * 1000:.3g} to {high})"


def _get_missing(canary: "Canary") -> list[str]:
    return [f"{each.metric}: {each.missing}" for each in canary.state.evidence if each.missing]

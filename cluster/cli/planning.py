"""Subcommands of planning: profile (how fast a model is), plan (how many replicas a goal needs)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.cli.quantities import SECONDS, parse_goal
from cluster.cli.terminal import (
    Json,
    Reference,
    context,
    make_table,
    print_json,
    print_line,
    print_note,
    print_table,
    show_status,
)

if TYPE_CHECKING:
    from cluster.model_profiles import ModelProfiles
    from deployments.scaling.plan import Plan
    from deployments.scaling.profile import Profile

Slo = Annotated[
    float | None,
    typer.Option(
        "--slo-p99",
        parser=parse_goal,
        metavar=SECONDS,
        help="Goal: seconds (0.05, or 50ms) within which 99% of the requests are answered.",
    ),
]
Rows = Annotated[int, typer.Option(min=1, help="Rows of each request.")]


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (profile, plan):
        app.command()(command)


def profile(
    reference: Reference,
    slo_p99: Slo = None,
    rows_per_request: Rows = 1,
    dtype: Annotated[Literal["fp32", "bf16"] | None, typer.Option(help="Measure this precision here.")] = None,
    compile_: Annotated[bool | None, typer.Option("--compile", help="Measure the compiled net here.")] = None,
    cpus: Annotated[float | None, typer.Option(min=0, help="Measure with the threads of so many CPUs here.")] = None,
    refresh: Annotated[bool, typer.Option(help="Measure anew here; the next replica takes it over.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the curve to a PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Show how fast a model is: passes by their rows.

    Of a deployed model it is what its replicas measured when they started; any other version is measured here. With a
    goal, how many requests a replica answers within it.
    """
    from cluster.shoal import Shoal

    if plot is not None and plot.suffix != ".png":
        raise typer.BadParameter(f"{plot} is no .png file", param_hint="--plot")
    if plot is not None and not plot.parent.is_dir():
        raise typer.BadParameter(f"the folder {plot.parent} is not there; make it first", param_hint="--plot")
    with show_status(f"profile of {reference}") as on_status:
        found = Shoal(context.settings).profile(
            reference, dtype=dtype, compile=compile_, cpus=cpus, refresh=refresh, on_status=on_status
        )
    goal = found.slo_p99_s if slo_p99 is None else slo_p99
    described = [_describe_profile(found, each, goal, rows_per_request) for each in found.profiles]
    if plot is not None:
        from deployments.scaling.plot import plot_profiles

        plot_profiles(found.profiles, f"{found.name}:{found.version}", plot, goal)
    if as_json:
        print_json(
            {"name": found.name, "version": found.version, "slo_p99_s": goal, "source": found.source}
            | {"path_s": found.path_s, "profiles": described}
        )
        return
    for each in described:
        _print_profile(found, each)
    if goal is None:
        print_note("with --slo-p99 SECONDS: how many requests a replica answers within that goal")
    if plot is not None:
        print_line(f"plot: {plot}")


def plan(
    reference: Reference,
    rps: Annotated[float, typer.Option("--rps", min=1e-3, help="Requests per second, of all callers together.")],
    slo_p99: Slo = None,
    rows_per_request: Rows = 1,
    cv: Annotated[
        float, typer.Option(min=0, max=20, help="Variation of the gaps between requests: 1 Poisson, more for bursts.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Say how many replicas a rate and a goal need.

    Replicas are simulated with the profile of each variant that was deployed or that `shoal profile` has measured; the
    one that needs the fewest processors is chosen.
    """
    from cluster.shoal import Shoal
    from training.errors import UserError

    with show_status(f"plan for {reference}") as on_status:
        found = Shoal(context.settings).profile(reference, on_status=on_status)
        goal = found.slo_p99_s if slo_p99 is None else slo_p99
        if goal is None:
            raise UserError(f"{found.name} has no goal; give one: --slo-p99 SECONDS")
        best, others = found.plan(rps, goal, rows_per_request, cv)
    command = _build_command(found, best)
    if as_json:
        print_json(
            {"name": found.name, "version": found.version, "source": found.source, "plan": best.model_dump(mode="json")}
            | {"others": [each.model_dump(mode="json") for each in others], "command": command}
        )
        return
    table = make_table("variant", "threads", "replicas", "rows/pass", "p50 ms", "p99 ms", "load", "max req/s a replica")
    for each in (best, *others):
        table.add_row(
            each.variant,
            str(each.threads),
            str(each.replicas),
            str(each.pass_rows),
            f"{1000 * each.p50_s:.3g}",
            f"{1000 * each.p99_s:.3g}",
            f"{each.utilization:.0%}",
            f"{each.max_rps_per_replica:,.4g}",
        )
    print_table(table)
    print_line(f"why: {best.reason}")
    print_line(f"measured: passes {found.source}; {best.overhead.source}")
    print_note(f"next: {command}")


def _describe_profile(
    found: "ModelProfiles", profile: "Profile", goal: float | None, rows_per_request: int
) -> dict[str, Any]:
    """A profile with what follows from the goal: rows per pass and requests per second of a replica."""
    description: dict[str, Any] = profile.key.model_dump(exclude={"digest"}) | {
        "measured_at": profile.measured_at,
        "request_s": profile.request_s,
        "row_s": profile.row_s,
        "passes": [timing.model_dump() | {"rows_per_s": round(timing.rows_per_s, 1)} for timing in profile.passes],
        "pass_rows": None,
        "max_rps": None,
    }
    if goal is not None and not found.generates_text:
        from deployments.scaling.plan import build_service, find_max_rate

        service = build_service(profile, goal, found.build_overhead(profile))
        description["pass_rows"] = service.pass_rows
        description["max_rps"] = find_max_rate(service, goal, rows=rows_per_request)
        description["slo_p99_s"], description["rows_per_request"] = goal, rows_per_request
    return description


def _print_profile(found: "ModelProfiles", described: dict[str, Any]) -> None:
    threads = f", {described['threads']} threads" if described["threads"] else ""
    print_line(f"{found.name}:{found.version} {described['variant']} on {described['processor']}{threads}")
    table = make_table("rows", "pass p50 ms", "p99 ms", "rows/s", "passes timed")
    for timing in described["passes"]:
        table.add_row(
            str(timing["rows"]),
            f"{1000 * timing['p50_s']:.3g}",
            f"{1000 * timing['p99_s']:.3g}",
            f"{timing['rows_per_s']:,.4g}",
            str(timing["passes"]),
        )
    print_table(table)
    overhead = ""
    if described["request_s"] is not None and described["row_s"] is not None:
        request_ms, row_ms = 1000 * described["request_s"], 1000 * described["row_s"]
        overhead = f"server {request_ms:.3g} ms a request and {row_ms:.3g} ms a row; "
    path = "" if found.path_s is None else f"{1000 * found.path_s:.3g} ms through the edge; "
    print_line(f"{overhead}{path}measured {found.source}")
    if described["max_rps"] is None:
        return
    goal = f"p99 within {1000 * described['slo_p99_s']:g} ms"
    if described["max_rps"]:
        rows = described["pass_rows"]
        print_line(f"{goal}: up to {described['max_rps']:,.4g} requests/s a replica, in passes of up to {rows} rows")
    else:
        print_line(f"{goal}: not even an idle replica")


def _build_command(found: "ModelProfiles", plan: "Plan") -> str:
    options = [f"--slo-p99 {plan.slo_p99_s:g}", f"--max-replicas {plan.replicas}"]
    if plan.threads > 1:
        options.append(f"--cpus {plan.threads}")
    if plan.variant.startswith("bf16"):
        options.append("--dtype bf16")
    if plan.variant.endswith("compiled"):
        options.append("--compile")
    return f"shoal deploy {found.name}:{found.version} {' '.join(options)}"

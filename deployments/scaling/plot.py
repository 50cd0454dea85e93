"""Plot of profiles: duration of a pass and rows per second by rows, as a PNG."""

from collections.abc import Sequence
from pathlib import Path

from deployments.scaling.profile import Profile


def plot_profiles(profiles: Sequence[Profile], title: str, file: Path, slo_p99_s: float | None = None) -> None:
    """Write the curves to a PNG file.

    Args:
        profiles: one curve for each.
        title: above both plots.
        file: is replaced.
        slo_p99_s: the goal, drawn as a line: two passes must fit below it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    duration, throughput = figure.subplots(1, 2)
    for profile in profiles:
        rows = [timing.rows for timing in profile.passes]
        label = f"{profile.key.variant}, {profile.key.threads} threads"
        (line,) = duration.plot(rows, [1000 * timing.p50_s for timing in profile.passes], "o-", label=f"{label}: p50")
        p99_ms = [1000 * timing.p99_s for timing in profile.passes]
        duration.plot(rows, p99_ms, "--", color=line.get_color(), label=f"{label}: p99")
        throughput.plot(rows, [timing.rows_per_s for timing in profile.passes], "o-", label=label)
    if slo_p99_s is not None:
        duration.axhline(500 * slo_p99_s, color="gray", linewidth=1, label="half of the goal")
    for axes, text in ((duration, "ms of a pass"), (throughput, "rows per second")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("rows of a pass")
        axes.set_ylabel(text)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(file, format="png", dpi=120)

"""Profile report: where the time of a run went, and an estimate of what more nodes would bring.

Train walk: cluster.cli.training -> [profile_report.py]
"""

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table

STEP_PHASES = ("data", "forward", "backward", "optimizer")
PHASES = (*STEP_PHASES, "validation", "checkpoint")
# Networks that clusters have, in bits per second.
LINKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "100 Gbit/s": 1e11}
NODES = (2, 4, 8, 16, 64)


def render_profile(metrics: Mapping[str, float]) -> Group:
    """Render the tables of one profiled run from its last report."""
    steps = max(1, int(metrics["profile_steps"]))
    seconds = {phase: metrics.get(f"profile_{phase}_s", 0.0) for phase in PHASES}
    total_s = metrics["profile_all_s"]
    seconds["other"] = total_s - sum(seconds.values())
    phases = Table("phase", "seconds", "ms per step", "share", box=None, pad_edge=False)
    phases.title = "time on worker 0"
    for phase, phase_s in seconds.items():
        phases.add_row(*_format_row(phase, phase_s, steps, total_s))
        if phase == "backward" and metrics.get("profile_all-reduce_s"):
            phases.add_row(*_format_row("  all-reduce, inside it", metrics["profile_all-reduce_s"], steps, total_s))
    bytes_per_step = metrics["profile_allreduce_bytes"] / steps
    if not bytes_per_step:
        return Group(phases)
    step_s = sum(seconds[phase] for phase in STEP_PHASES) / steps
    speedups = Table("nodes", *(str(nodes) for nodes in NODES), box=None, pad_edge=False)
    for link, bits_per_s in LINKS.items():
        values = [nodes * step_s / max(step_s, _all_reduce_s(bytes_per_step, nodes, bits_per_s)) for nodes in NODES]
        speedups.add_row(link, *(f"{value:.1f}x" for value in values))
    title = f"gradients per step: {bytes_per_step / 1e3:,.1f} kB; estimated speedup on more nodes:"
    return Group(phases, "", title, speedups)


def _format_row(phase: str, seconds: float, steps: int, total_s: float) -> tuple[str, ...]:
    return phase, f"{seconds:.2f}", f"{1000 * seconds / steps:.2f}", f"{seconds / max(total_s, 1e-9):.1%}"


def _all_reduce_s(num_bytes: float, nodes: int, bits_per_s: float) -> float:
    """Seconds of a ring all-reduce: each node sends and receives 2 (n - 1) / n of the bytes (Patarasuk, Yuan, 2009).

    A step computes as long as on this machine, and hides the all-reduce up to its own length.
    """
    return 2 * (nodes - 1) / nodes * num_bytes * 8 / bits_per_s

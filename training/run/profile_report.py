"""What `--profile` says: where a run's time goes, and what that means for more machines."""

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table

STEP = ("data", "forward", "backward", "optimizer")
PHASES = (*STEP, "validation", "checkpoint")
# Links that clusters have, in bits per second.
LINKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "100 Gbit/s": 1e11}
NODES = (2, 4, 8, 16, 64)


def render_profile(metrics: Mapping[str, float]) -> Group:
    """Make the tables of one profiled run from what it reported last."""
    steps = max(1, int(metrics["profile_steps"]))
    seconds = {name: metrics.get(f"profile_{name}_s", 0.0) for name in PHASES}
    whole = metrics["profile_all_s"]
    seconds["other"] = whole - sum(seconds.values())
    shown = Table("phase", "seconds", "ms a step", "share", box=None, pad_edge=False)
    shown.title = "where the time goes, on worker 0"
    for name, value in seconds.items():
        shown.add_row(*_row(name, value, steps, whole))
        if name == "backward" and metrics.get("profile_all-reduce_s"):
            shown.add_row(*_row("  all-reduce, inside it", metrics["profile_all-reduce_s"], steps, whole))
    count = metrics["profile_allreduce_bytes"] / steps
    if not count:
        return Group(shown)
    step_s = sum(seconds[name] for name in STEP) / steps
    paper = Table("nodes", *(str(nodes) for nodes in NODES), box=None, pad_edge=False)
    for link, bits in LINKS.items():
        rates = [nodes * step_s / max(step_s, _ring_s(count, nodes, bits)) for nodes in NODES]
        paper.add_row(link, *(f"{rate:.1f}x" for rate in rates))
    said = f"gradients of a step: {count / 1e3:,.1f} kB; what more machines would bring, on paper:"
    return Group(shown, "", said, paper)


def _row(name: str, seconds: float, steps: int, whole: float) -> tuple[str, ...]:
    return name, f"{seconds:.2f}", f"{1000 * seconds / steps:.2f}", f"{seconds / max(whole, 1e-9):.1%}"


def _ring_s(count: float, nodes: int, bits_per_s: float) -> float:
    """Seconds of a ring all-reduce: each node sends and takes 2 (n - 1) / n of the bytes (Patarasuk, Yuan, 2009).

    Over the same time a step computes as much as here, and hides the exchange up to its own length.
    """
    return 2 * (nodes - 1) / nodes * count * 8 / bits_per_s

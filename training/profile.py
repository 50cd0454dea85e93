"""What `--profile` says: where a step's time goes, and what that means for more machines."""

from collections.abc import Mapping

from rich.table import Table

PHASES = ("data", "forward", "backward", "optimiser", "checkpoint", "all-reduce")
# Links that clusters have, in bits per second.
LINKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "100 Gbit/s": 1e11}
NODES = (2, 4, 8, 16, 64)


def report(metrics: Mapping[str, float]) -> Table:
    """Make the table of one profiled run from what it reported last."""
    steps = max(1, int(metrics["profile_steps"]))
    shown = Table("phase", "ms a step", "share", box=None, pad_edge=False, title="where the time goes, on worker 0")
    seconds = {name: metrics.get(f"profile_{name}_s", 0.0) for name in PHASES}
    total = sum(value for name, value in seconds.items() if name != "all-reduce") or 1.0
    for name, value in seconds.items():
        note = " (inside backward)" if name == "all-reduce" else ""
        shown.add_row(name + note, f"{1000 * value / steps:.2f}", f"{value / total:.1%}")
    count = metrics["profile_allreduce_bytes"] / steps
    shown.add_row("", "", "")
    shown.add_row(f"gradients all-reduced: {count / 1e6:.2f} MB a step", "", "")
    step_s = total / steps
    for link, bits in LINKS.items():
        rates = ", ".join(
            f"{nodes}: {nodes * step_s / max(step_s, _ring_s(count, nodes, bits)):.1f}x" for nodes in NODES
        )
        shown.add_row(f"speed-up on paper over {link}, by nodes: {rates}", "", "")
    return shown


def _ring_s(count: float, nodes: int, bits_per_s: float) -> float:
    """Seconds of a ring all-reduce: each node sends and takes 2 (n - 1) / n of the bytes (Patarasuk, Yuan, 2009).

    Over the same time a step computes as much as here, and hides the exchange up to its own length.
    """
    return 2 * (nodes - 1) / nodes * count * 8 / bits_per_s

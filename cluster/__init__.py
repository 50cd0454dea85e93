"""Shoal's outside: the command line, settings, the cluster on this machine, rollouts, jobs.

What others use is here: `from cluster import Shoal` gives the platform's verbs as methods; see shoal.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.settings import Settings
    from cluster.shoal import Shoal

__all__ = ["Settings", "Shoal"]

_MODULES = {"Shoal": "cluster.shoal", "Settings": "cluster.settings"}


def __getattr__(name: str) -> Any:
    # On demand: a command that needs neither starts without them.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)

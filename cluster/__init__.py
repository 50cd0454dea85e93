"""The platform: command line and Python API, settings, this machine's Ray cluster (local), rollouts, jobs.

`from cluster import Shoal` gives the subcommands of `shoal` as methods; see shoal.py.
A walk in a header (Train, Deploy, Request, Predict) is the path of that action through the files, in the order in which
they act; this file is in brackets.
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

"""Every private name of Ray that `cluster` uses; checked against Ray 2.60.0.

| name | used for (there is no public API) | if Ray changes |
|---|---|---|
| `_private.ray_constants.ENABLE_RAY_CLUSTER` | see whether Ray was imported before its switches were set, which it \
reads at import: it would then look for the cluster at another address, until a timeout | the check is left out |

tests/test_private_names.py fails where another Ray is installed.
"""


def expects_loopback() -> bool:
    """Whether this process's Ray was imported with the switch that keeps it to 127.0.0.1."""
    try:
        from ray._private.ray_constants import ENABLE_RAY_CLUSTER
    except ImportError:
        return True
    return not ENABLE_RAY_CLUSTER

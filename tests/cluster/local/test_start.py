"""What Ray says when it does not start is shown in its own words."""

from pathlib import Path

import pytest

from cluster.local.running_cluster import temp_dir
from cluster.local.start import find_reason, stop_cluster
from cluster.settings import Settings

COLLISION = """Traceback (most recent call last):
  File "scripts.py", line 1, in <module>
    raise ValueError(
ValueError: Ray component worker_ports is trying to use a port number 19265 that is used by other components.
"""


@pytest.mark.parametrize(
    ("stderr", "stdout", "reason"),
    [
        (COLLISION, "Local node IP: 127.0.0.1\n", "ValueError: Ray component worker_ports is trying to use a port"),
        (
            "",
            "\x1b[31mUsage Error: --port is taken\x1b[39m\nLocal node IP: 127.0.0.1\n",
            "Usage Error: --port is taken",
        ),
        ("RuntimeError: no space\nclosing\n", "ok\n", "RuntimeError: no space"),
        ("something odd\n", "ok\n", "something odd"),
        ("", "", "exit code 7"),
    ],
)
def test_the_reason_is_the_last_error_not_the_last_line(stderr: str, stdout: str, reason: str) -> None:
    assert find_reason(stderr, stdout, 7).startswith(reason)


def test_a_stop_deletes_rays_logs_as_the_guide_says(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    logs = temp_dir(tmp_path) / "ray" / "session_latest" / "logs"
    logs.mkdir(parents=True)

    stop_cluster(settings)

    assert not logs.exists()

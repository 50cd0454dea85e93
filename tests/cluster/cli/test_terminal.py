"""What a command says while it works."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import terminal
from cluster.local.running_cluster import exclusive_lock
from cluster.settings import Settings


def test_what_a_command_waits_for_is_printed_once_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.show_status("starting") as on_status:
        for status in ("waiting for a", "starting Ray", "waiting for a"):
            on_status(status)
    printed = capsys.readouterr()
    assert (printed.out.strip(), printed.err) == ("", "starting: waiting for a\n")

    monkeypatch.setattr(terminal.context, "quiet", True)
    with terminal.show_status("starting") as on_status:
        on_status("waiting for a")
    assert capsys.readouterr().err == ""


def test_a_lock_that_another_command_holds_is_waited_for_by_its_process(tmp_path: Path) -> None:
    settings, statuses = Settings(home=tmp_path), list[str]()
    code = "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with exclusive_lock(settings):
        pass
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run" / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()

    def on_status(status: str) -> None:
        statuses.append(status)
        process.communicate(b"\n")

    with exclusive_lock(settings, on_status):
        assert len(statuses) == 1
        assert statuses[0].startswith(terminal.WAITING + "another shoal command to end")

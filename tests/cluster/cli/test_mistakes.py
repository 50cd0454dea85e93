"""Every mistake at the command line: one clear line and exit code 2."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Shoal, save_image, save_table, shoal_for, until

MISTAKES = {
    "an unknown verb": (["sail"], "No such command 'sail'"),
    "an unknown option": (["up", "--fast"], "No such option"),
    "a missing argument": (["deploy"], "Missing argument"),
    "a value that is no number": (["deploy", "x", "--min-replicas", "many"], "--min-replicas"),
    "bounds the wrong way round": (["deploy", "x", "--min-replicas", "3", "--max-replicas", "2"], "max_replicas=2"),
    "no replica at all": (["deploy", "x", "--min-replicas", "0"], "min_replicas"),
    "an unknown recipe": (["train", "digits"], "those of the zoo: "),
    "a recipe file that is not there": (["train", "nowhere.py"], "no recipe file 'nowhere.py'"),
    "an unknown key": (["train", "iris", "--set", "optimizer.momentum=1"], "valid keys: name, lr, args"),
    "a value that a rule refuses": (["train", "iris", "--set", "stop.epochs=0"], "stop.epochs"),
    "no workers": (["train", "iris", "--workers", "0"], "make it 1 or more"),
    "bounds of workers the wrong way round": (["train", "iris", "--workers", "4-2"], "the lower bound first"),
    "workers that are no number": (["train", "iris", "--workers", "many"], "write a number of workers"),
    "neither recipe nor run": (["train"], "name a recipe, or a run to --resume"),
    "a run that is not there": (["train", "--resume", "iris-1"], "no run 'iris-1'; newest: none"),
    "two runs that are not there": (["runs", "compare", "a", "b"], "no run 'a'"),
    "an unknown model": (["models", "show", "roses"], "no model 'roses'; registered: none"),
    "promotion of nothing": (["models", "promote", "roses", "1", "--as", "champion"], "no model 'roses'"),
    "no bundle": (["models", "import", "."], "holds no bundle.json"),
    "no cluster, deploy": (["deploy", "iris"], "start one with `shoal up`"),
    "no cluster, predict": (["predict", "iris", "{}"], "start one with `shoal up`"),
    "no cluster, undeploy": (["undeploy", "iris"], "start one with `shoal up`"),
    "no cluster, submit": (["train", "iris", "--submit"], "start one with `shoal up`"),
    "a settings file that is not there": (["--settings", "nowhere.yaml", "status"], "nowhere.yaml cannot be read"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_line_and_exit_code_2(quiet: Shoal, tmp_path: Path, case: str) -> None:
    arguments, said = MISTAKES[case]

    done = quiet(*arguments, cwd=tmp_path)

    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_wrong_variable_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = shoal_for(tmp_path / "home")("up", env={"SHOAL_PROT": "1"})

    assert (done.returncode, done.stderr) == (
        2,
        "error: SHOAL_PROT is no setting of Shoal; `shoal settings` lists them all\n",
    )


def test_an_interruption_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    # Settings that are never written: the command has opened them once we can, and waits.
    os.mkfifo(tmp_path / "settings.yaml")
    writers: list[int] = []

    def open_writer() -> bool:
        with contextlib.suppress(OSError):
            writers.append(os.open(tmp_path / "settings.yaml", os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    command = [Path(sys.executable).parent / "shoal", "--settings", str(tmp_path / "settings.yaml"), "status"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert until(open_writer, 20)

    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=20) == ("", "error: interrupted\n")
    assert process.returncode == 130


def test_the_command_alone_is_its_help(quiet: Shoal) -> None:
    done = quiet()

    assert done.returncode == 0
    assert "deploy" in done.stdout


def test_settings_lists_every_key_with_its_origin_and_no_password(quiet: Shoal) -> None:
    environment = {"SHOAL_PLATFORM_URI": "postgresql://u:hunter2@db/x", "COLUMNS": "400"}

    shown = quiet("settings", env=environment).stdout

    for key in ("home", "registry_uri", "limits.max_rows", "http_port", "drain_s"):
        assert key in shown
    assert "SHOAL_PLATFORM_URI" in shown
    assert "hunter2" not in shown


def test_the_registry_works_without_a_cluster(quiet: Shoal, tmp_path: Path) -> None:
    save_image(tmp_path / "first", name="flowers")
    save_table(tmp_path / "second")

    assert "published flowers:1" in quiet("models", "import", str(tmp_path / "first")).stdout
    assert "published flowers:2" in quiet("models", "import", str(tmp_path / "second")).stdout
    assert "flowers:2 is this bundle already" in quiet("models", "import", str(tmp_path / "second")).stdout
    assert "flowers:2 is now challenger" in quiet("models", "promote", "flowers", "2", "--as", "challenger").stdout
    listed = quiet("models", env={"COLUMNS": "200"}).stdout
    assert "challenger=2, champion=1" in listed
    shown = quiet("models", "show", "flowers@challenger", env={"COLUMNS": "200"}).stdout
    assert "Tells three kinds apart." in shown
    assert quiet("models", "export", "flowers", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "model.pt2").is_file()
    again = quiet("models", "export", "flowers", str(tmp_path / "out"))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_status_without_a_cluster_says_so(quiet: Shoal) -> None:
    assert "no cluster runs" in quiet("status").stdout

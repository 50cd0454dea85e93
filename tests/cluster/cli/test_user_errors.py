"""Every user error at the command line: one line and exit code 2."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ShoalCli, make_shoal_cli, wait_until
from tests.small_bundles import save_image, save_table

USER_ERRORS = {
    "an unknown command": (["sail"], "No such command 'sail'"),
    "an unknown option": (["up", "--fast"], "No such option"),
    "a renamed option": (["runs", "--most", "3"], "It is called --limit now"),
    "a missing argument": (["deploy"], "Missing argument"),
    "a value that is not a number": (["deploy", "x", "--min-replicas", "many"], "--min-replicas"),
    "minimum replicas over the maximum": (
        ["deploy", "x", "--min-replicas", "3", "--max-replicas", "2"],
        "max_replicas=2",
    ),
    "no replica at all": (["deploy", "x", "--max-replicas", "0"], "max_replicas"),
    "an unknown recipe": (["train", "digits"], "those of the zoo: "),
    "a missing recipe file": (["train", "nowhere.py"], "no recipe file 'nowhere.py'"),
    "an unknown key": (["train", "iris", "--set", "optimizer.momentum=1"], "valid keys: name, lr, args"),
    "a value out of bounds": (["train", "iris", "--set", "stop.epochs=0"], "stop.epochs"),
    "no workers": (["train", "iris", "--workers", "0"], "workers 0: there must be 1 or more"),
    "minimum workers over the maximum": (
        ["train", "iris", "--workers", "4-2"],
        "workers 4-2: write the lower bound first, as 2-4",
    ),
    "workers that are not a number": (["train", "iris", "--workers", "many"], "write a number of workers"),
    "neither recipe nor run": (["train"], "name a recipe, or a run to --resume"),
    "an unknown run": (["train", "--resume", "iris-1"], "no run 'iris-1'; newest: none"),
    "two unknown runs": (["runs", "compare", "a", "b"], "no run 'a'"),
    "an unknown model": (["models", "show", "roses"], "no model 'roses'; registered: none"),
    "promotion of an unknown model": (["models", "promote", "roses", "1", "--as", "champion"], "no model 'roses'"),
    "a script that binds no recipe": (["train", "save.py"], "save.py binds no `recipe`"),
    "a script that binds no pipeline": (["apply", "save.py"], "save.py binds no `pipeline`"),
    "no bundle": (["models", "import", "."], "holds no bundle.json"),
    "no cluster, deploy": (["deploy", "iris"], "start one with `shoal up`"),
    "no cluster, predict": (["predict", "iris", "{}"], "start one with `shoal up`"),
    "a missing file to predict": (
        ["predict", "iris", "nowhere.csv"],
        "'nowhere.csv' is neither a file nor JSON; give a",
    ),
    "a file to predict of another kind": (["predict", "iris", __file__], "is no file of inputs; give .json, .jsonl"),
    "a missing pipeline file": (["apply", "nowhere.yaml"], "no file 'nowhere.yaml'; give a .yaml file"),
    "no cluster, undeploy": (["undeploy", "iris"], "'iris' is not deployed; deployed: none"),
    "no cluster, submit": (["train", "iris", "--submit"], "start one with `shoal up`"),
    "a missing settings file": (["--settings", "nowhere.yaml", "status"], "nowhere.yaml cannot be read"),
}


@pytest.mark.parametrize("case", USER_ERRORS)
def test_a_user_error_is_one_line_and_exit_code_2(shoal: ShoalCli, tmp_path: Path, case: str) -> None:
    arguments, message = USER_ERRORS[case]
    (tmp_path / "save.py").write_text("raise SystemExit('was run')")

    result = shoal(*arguments, cwd=tmp_path)

    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_table_that_cannot_be_read_is_refused_before_a_cluster_is_looked_for(shoal: ShoalCli, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(table))  # which not even root can read as a file

        unreadable = shoal("predict", "iris", str(table))
    table.unlink()
    table.write_text("a\n1\n")
    readable = shoal("predict", "iris", str(table))

    assert f"{table} cannot be read: " in unreadable.stderr
    assert "start one with `shoal up`" in readable.stderr
    assert (unreadable.returncode, readable.returncode) == (2, 2)


def test_rows_that_are_missing_are_named_before_a_cluster_is_started(tmp_path: Path) -> None:
    (tmp_path / "flowers_of_nowhere.py").write_text(
        "from training import Files, Net, Recipe\n"
        "recipe = Recipe(name='x', task='tabular-classification', net=Net(source='training.zoo.nets.mlp:mlp'),\n"
        "                data=Files(path='nowhere.csv', format='csv', target='species'))\n"
    )

    result = make_shoal_cli(tmp_path / "home")("train", "flowers_of_nowhere.py", cwd=tmp_path)

    assert result.returncode == 2
    assert f"error: data.path: there is no '{tmp_path}/nowhere.csv' on " in result.stderr
    assert not (tmp_path / "home" / "secrets").exists()  # which a cluster's start makes


def test_an_unknown_variable_is_refused_before_anything_starts(tmp_path: Path) -> None:
    result = make_shoal_cli(tmp_path / "home")("up", env={"SHOAL_PROT": "1"})

    assert (result.returncode, result.stderr) == (
        2,
        "error: SHOAL_PROT is no setting of Shoal; `shoal settings` lists them all\n",
    )


def test_an_interruption_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    # A named pipe that nothing is written to: once it can be opened for writing, the command has opened it and waits.
    os.mkfifo(tmp_path / "settings.yaml")
    writers: list[int] = []

    def open_writer() -> bool:
        with contextlib.suppress(OSError):
            writers.append(os.open(tmp_path / "settings.yaml", os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    command = [str(Path(sys.executable).parent / "shoal"), "--settings", str(tmp_path / "settings.yaml"), "status"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert wait_until(open_writer, 20)

    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=20) == ("", "error: interrupted\n")
    assert process.returncode == 130


def test_the_command_without_arguments_prints_help(shoal: ShoalCli) -> None:
    result = shoal()

    assert result.returncode == 0
    assert "deploy" in result.stdout


def test_settings_lists_every_key_with_its_origin_and_no_password(shoal: ShoalCli) -> None:
    environment = {"SHOAL_PLATFORM_URI": "postgresql://u:hunter2@db/x", "COLUMNS": "400"}

    output = shoal("settings", env=environment).stdout

    for key in ("home", "registry_uri", "limits.max_rows", "http_port", "allow_plaintext"):
        assert key in output
    assert re.search(r"^limits\.max_rows +SHOAL_LIMITS__MAX_ROWS +int ", output, re.MULTILINE)
    assert re.search(r"^platform_uri +SHOAL_PLATFORM_URI +str .* SHOAL_PLATFORM_URI ", output, re.MULTILINE)
    assert "hunter2" not in output


def test_the_registry_works_without_a_cluster(shoal: ShoalCli, tmp_path: Path) -> None:
    save_image(tmp_path / "first", name="flowers")
    save_table(tmp_path / "second")

    assert "published flowers:1" in shoal("models", "import", str(tmp_path / "first")).stdout
    assert "published flowers:2" in shoal("models", "import", str(tmp_path / "second")).stdout
    assert "flowers:2 is this bundle already" in shoal("models", "import", str(tmp_path / "second")).stdout
    assert "flowers:2 is now challenger" in shoal("models", "promote", "flowers", "2", "--as", "challenger").stdout
    listed = shoal("models", env={"COLUMNS": "200"}).stdout
    assert "challenger=2, champion=1" in listed
    output = shoal("models", "show", "flowers@challenger", env={"COLUMNS": "200"}).stdout
    assert "Classifies three species." in output
    assert shoal("models", "export", "flowers", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "model.pt2").is_file()
    again = shoal("models", "export", "flowers", str(tmp_path / "out"))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_status_without_a_cluster_says_so(shoal: ShoalCli) -> None:
    assert "no cluster runs" in shoal("status").stdout


@pytest.mark.parametrize("home", ["file", "file/below"])
def test_a_home_that_is_no_folder_is_refused(tmp_path: Path, home: str) -> None:
    (tmp_path / "file").write_text("x")

    result = make_shoal_cli(tmp_path / home)("models")

    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"error: SHOAL_HOME {tmp_path / home}" in result.stderr


def test_a_full_disk_is_said_in_one_line() -> None:
    script = (
        "import sys\n"
        "from cluster.cli import app\n"
        "def fill(*_, **__):\n"
        "    with open('/dev/full', 'w') as disk:  # one without space\n"
        "        disk.write('x')\n"
        "app.typer.main.get_command = lambda _: fill\n"
        "sys.exit(app.run(['status']))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert result.returncode == 1
    assert result.stderr == "error: No space left on device; free some space, or set SHOAL_HOME to a folder with more\n"


def test_text_is_utf8_in_a_locale_that_is_not(tmp_path: Path) -> None:
    """Debian's images have no such locale compiled; localedef makes one."""
    locale = tmp_path / "de_DE.ISO-8859-1"
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(locale)], capture_output=True)
    if not locale.is_dir():
        pytest.skip(f"localedef cannot make a locale: {made.stderr.decode()[:100]}")
    # Misread as ISO-8859-1, its last byte would be a control character, which messages escape.
    (tmp_path / "pipe.yaml").write_text("name: 世\nroot: {kind: nothing}\n", encoding="utf-8")
    environment = {"LOCPATH": str(tmp_path), "LC_ALL": locale.name, "LANG": locale.name}

    result = make_shoal_cli(tmp_path / "home")("apply", str(tmp_path / "pipe.yaml"), env=environment)

    assert result.returncode == 2
    assert "世" in result.stderr, result.stderr

"""Every mistake at the command line: one clear line and exit code 2."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.cli import app
from cluster.local import lifecycle
from tests.conftest import Shoal, save_table, shoal_for


@pytest.fixture
def quiet(tmp_path: Path) -> Shoal:
    """A command line whose SHOAL_HOME has no cluster."""
    return shoal_for(tmp_path / "home")


MISTAKES = {
    "an unknown verb": (["sail"], "No such command 'sail'"),
    "an unknown option": (["up", "--fast"], "No such option"),
    "a missing argument": (["deploy"], "Missing argument"),
    "a value that is no number": (["deploy", "x", "--min-replicas", "many"], "--min-replicas"),
    "bounds the wrong way round": (["deploy", "x", "--min-replicas", "3", "--max-replicas", "2"], "max_replicas=2"),
    "no replica at all": (["deploy", "x", "--min-replicas", "0"], "min_replicas"),
    "an unknown recipe": (["train", "digits"], "ready ones: "),
    "a recipe file that is not there": (["train", "nowhere.py"], "no recipe file 'nowhere.py'"),
    "an unknown key": (["train", "iris", "--set", "optimiser.momentum=1"], "valid here: name, lr, args"),
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


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """What the command line says to each mistake; two at a time, since most of it is Python's start."""

    def ask(case: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return shoal_for(folder / "home")(*MISTAKES[case][0], cwd=folder)

    folders = [tmp_path_factory.mktemp("mistake") for _ in MISTAKES]
    with ThreadPoolExecutor(2) as two:
        return dict(zip(MISTAKES, two.map(ask, MISTAKES, folders), strict=True))


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    answers: dict[str, subprocess.CompletedProcess[str]], case: str
) -> None:
    done, (_, said) = answers[case], MISTAKES[case]

    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_wrong_variable_is_told_before_anything_starts(quiet: Shoal) -> None:
    done = quiet("up", env={"SHOAL_PROT": "1"})

    assert (done.returncode, done.stderr) == (
        2,
        "error: SHOAL_PROT is no setting of Shoal; `shoal settings` lists them all\n",
    )


def test_an_interruption_is_one_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(lifecycle, "find", interrupt)

    assert app.run(["status"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


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
    save_table(tmp_path / "table")

    assert "published flowers:1" in quiet("models", "import", str(tmp_path / "table")).stdout
    assert "published flowers:2" in quiet("models", "import", str(tmp_path / "table")).stdout
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

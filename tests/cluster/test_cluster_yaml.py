"""cluster.yaml is valid by Ray's schema, and the commands that it runs exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cluster.cli.app import app
from cluster.settings import list_fields, variable_name

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def prepare_and_validate(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared


def test_rays_launcher_accepts_the_file(config: dict[str, Any]) -> None:
    assert prepare_and_validate(config)["available_node_types"].keys() == {"head", "gpu"}


def test_rays_launcher_would_refuse_a_misspelled_key(config: dict[str, Any]) -> None:
    config["idle_timeout_minuts"] = 5

    with pytest.raises(Exception, match="idle_timeout_minuts"):
        prepare_and_validate(config)


def test_the_head_has_no_gpu_and_gpu_workers_scale_from_zero(config: dict[str, Any]) -> None:
    types = config["available_node_types"]

    assert config["head_node_type"] == "head"
    assert "GPU" not in types["head"]["resources"]
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["max_workers"] >= 1
    assert types["gpu"]["resources"]["GPU"] >= 1


def test_its_commands_options_and_settings_exist(config: dict[str, Any]) -> None:
    variables = {variable_name(key) for key in list_fields()}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    settings = re.findall(r"--env (SHOAL_\w+)=", " ".join(config["docker"]["run_options"]))
    assert "SHOAL_HOST" in settings
    assert set(settings) <= variables
    for line in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        words = shlex.split(line)
        command = words[words.index("shoal") + 1]
        options = {o for parameter in commands[command].params for o in parameter.opts}
        assert {w for w in words if w.startswith("--")} <= options


def test_every_block_has_a_comment() -> None:
    lines = FILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"^[a-z_]+:", line):
            nearby_lines = lines[max(0, number - 2) : number] + lines[number + 1 : number + 4]
            assert any(nearby_line.lstrip().startswith("#") for nearby_line in nearby_lines) or number < 2, line


def test_the_image_has_the_installed_version_of_ray(config: dict[str, Any]) -> None:
    import ray

    assert f":{ray.__version__}-" in config["docker"]["image"]

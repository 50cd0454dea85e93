from pathlib import Path

import pytest

from cluster.local.processes import CLUSTER_ID_VARIABLE
from cluster.settings import Settings, list_fields, load_settings, variable_name
from training.errors import UserError
from training.settings import mask_passwords


def test_a_variable_overrides_the_file_and_the_file_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("http_port: 1111\ndashboard_port: 2222\nlimits: {max_rows: 7}\n")
    monkeypatch.setenv("SHOAL_HTTP_PORT", "3333")

    settings = load_settings(file)

    assert (settings.http_port, settings.dashboard_port, settings.cpus) == (3333, 2222, 0)
    assert settings.limits.max_rows == 7
    origins = [settings.origin(key) for key in ("http_port", "dashboard_port", "limits.max_rows", "cpus")]
    assert origins == ["SHOAL_HTTP_PORT", "file", "file", "default"]


def test_a_variable_sets_a_nested_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_LIMITS__MAX_ROWS", "9")

    assert load_settings().limits.max_rows == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("http_prot: 1", r"http_prot: no such key; did you mean 'http_port'\? valid keys: home, .*, limits, .*"),
        ("limits: {max_row: 1}", r"limits.max_row: no such key; did you mean 'max_rows'\? valid keys: max_body_bytes,"),
        ("limits.max_rows: 7", r"'limits.max_rows' is a key inside of another; write `limits: \{max_rows: 7\}`$"),
        ("limits.max_row: 7", r"no key 'limits.max_row'; did you mean 'limits.max_rows'\? valid keys: home"),
        ("http_port: 99999", "http_port.*65535.*99999"),
        ("http_port: many", "http_port.*many"),
        ("- a list", "holds a list"),
        (": : :", "cannot be read"),
    ],
)
def test_an_invalid_file_is_refused_with_its_key(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(content)

    with pytest.raises(UserError, match=message):
        load_settings(file)


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_HOME", "")

    assert load_settings().home == Path("~/.shoal").expanduser()
    assert load_settings().origin("home") == "default"


def test_a_misspelled_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_HTTP_PROT", "1")

    with pytest.raises(UserError, match=r"SHOAL_HTTP_PROT is no setting of Shoal; did you mean SHOAL_HTTP_PORT\?"):
        load_settings()


def test_a_process_of_the_cluster_reads_the_settings_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = load_settings().as_environment()
    for name, value in (environment | {CLUSTER_ID_VARIABLE: "1"}).items():
        monkeypatch.setenv(name, value)

    assert load_settings().as_environment() == environment


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in list_fields().values())


def test_settings_survive_the_environment_that_the_cluster_gets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, http_port=0, cpus=3, deploy_timeout_s=0.5)
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings


def test_a_password_in_a_uri_is_masked() -> None:
    assert mask_passwords("postgresql://shoal:hunter2@db/shoal") == "postgresql://shoal:***@db/shoal"
    assert mask_passwords("sqlite:////home/a/registry.db") == "sqlite:////home/a/registry.db"


def test_variables_are_named_after_their_keys() -> None:
    assert variable_name("limits.max_rows") == "SHOAL_LIMITS__MAX_ROWS"

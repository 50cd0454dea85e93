"""What a cluster that other machines can reach has to have, before anything starts."""

from pathlib import Path

import pytest

from cluster.local import secrets
from cluster.local.network import check_network
from cluster.local.running_cluster import temp_dir
from cluster.local.start import join_cluster, start_cluster
from cluster.settings import Settings
from training.errors import UserError


def make_settings(home: Path, **changes: object) -> Settings:
    defaults = {"host": "0.0.0.0", "http_port": 0, "grpc_port": 0, "dashboard_port": 0, "allow_plaintext": True}
    return Settings(home=home, **defaults | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "127.0.0.2"])
def test_rays_traffic_crosses_a_network_only_where_that_is_allowed(tmp_path: Path, host: str) -> None:
    settings = make_settings(tmp_path / "home", host=host)
    secrets.ensure_secret(settings.home, secrets.RAY_TOKEN)

    for start in (
        lambda: start_cluster(settings),
        lambda: start_cluster(settings, for_run=True),
        lambda: join_cluster(settings, "192.0.2.1:6379"),
    ):
        with pytest.raises(UserError, match=rf"SHOAL_HOST is {host}.*SHOAL_ALLOW_PLAINTEXT_NODES=true"):
            start()

    assert not temp_dir(settings.home).exists()
    check_network(make_settings(tmp_path / "home", host=host, allow_plaintext_nodes=True))
    check_network(Settings(home=tmp_path / "home"))


@pytest.mark.parametrize("name", secrets.ALL_SECRETS)
def test_a_secret_that_can_be_guessed_is_for_one_machine_alone(tmp_path: Path, name: str) -> None:
    settings = make_settings(tmp_path, allow_plaintext_nodes=True)
    file = tmp_path / "secrets" / name
    file.parent.mkdir()
    file.touch(mode=0o600)
    file.write_text("hunter2")

    with pytest.raises(UserError, match="fewer than 32 characters"):
        check_network(settings)
    check_network(Settings(home=tmp_path))
    file.unlink()
    secrets.ensure_secret(tmp_path, name)
    check_network(settings)

from pathlib import Path

import pytest

from cluster.local import secrets
from training.errors import UserError


def test_a_secret_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    secret = secrets.ensure_secret(tmp_path, secrets.ADMIN_KEY)

    assert (
        secrets.ensure_secret(tmp_path, secrets.ADMIN_KEY) == secrets.read_secret(tmp_path, secrets.ADMIN_KEY) == secret
    )
    assert len(secret.removeprefix("shoal-")) == 64
    assert (tmp_path / "secrets" / "admin_key").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    secrets.ensure_secret(tmp_path, secrets.ADMIN_KEY)
    (tmp_path / "secrets" / "admin_key").chmod(0o644)

    with pytest.raises(UserError, match="chmod 600"):
        secrets.read_secret(tmp_path, secrets.ADMIN_KEY)


def test_a_missing_secret_is_refused_with_the_command_that_creates_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shoal init"):
        secrets.read_secret(tmp_path, secrets.RAY_TOKEN)


def test_an_empty_secret_is_refused_with_the_remedy(tmp_path: Path) -> None:
    secrets.ensure_secret(tmp_path, secrets.ADMIN_KEY)
    (tmp_path / "secrets" / "admin_key").write_text("")

    with pytest.raises(UserError, match="is empty; delete it"):
        secrets.ensure_secret(tmp_path, secrets.ADMIN_KEY)


def test_creating_a_secret_leaves_no_other_file(tmp_path: Path) -> None:
    secrets.ensure_secret(tmp_path, secrets.ADMIN_KEY)

    assert [f.name for f in (tmp_path / "secrets").iterdir()] == ["admin_key"]

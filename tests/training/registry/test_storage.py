"""Folders of an object store are copied once; a damaged copy is fetched again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from training.bundle.verify import verify_bundle
from training.errors import BundleError
from training.registry import storage


@pytest.mark.parametrize(
    "damage",
    [
        lambda copy: (copy / "model.pt2").write_bytes(b"damaged"),
        lambda copy: (copy / "bundle.json").unlink(),
        lambda copy: (shutil.rmtree(copy), copy.mkdir()),
    ],
    ids=["altered", "a file is missing", "emptied"],
)
def test_a_damaged_copy_is_fetched_again(
    table_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(storage, "_local_path", lambda uri: None)
    copy = tmp_path / "cache" / "copy"
    expected = storage.use_bundle(f"file://{table_bundle}", copy, verify_bundle)
    damage(copy)

    assert storage.use_bundle(f"file://{table_bundle}", copy, verify_bundle) == expected
    assert verify_bundle(copy) == expected


def test_a_bundle_that_is_damaged_itself_is_refused(
    table_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (table_bundle / "model.pt2").write_bytes(b"damaged")
    for is_local in (True, False):
        if not is_local:
            monkeypatch.setattr(storage, "_local_path", lambda uri: None)
        with pytest.raises(BundleError, match=r"model\.pt2 was altered"):
            storage.use_bundle(f"file://{table_bundle}", tmp_path / "copy", verify_bundle)

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.small_bundles import TWO_FEATURES as INFO
from tests.small_bundles import rewrite_manifest
from training.bundle.load import load_bundle
from training.bundle.manifest import Manifest
from training.bundle.save import save_bundle
from training.bundle.verify import verify_bundle
from training.errors import BundleError, UserError


def test_a_loaded_bundle_computes_what_the_net_computed(table_bundle: Path) -> None:
    torch.manual_seed(0)
    from training.zoo.nets.mlp import mlp

    net = mlp(4, [8], 3).eval()
    x = torch.randn(7, 4)

    bundle = load_bundle(table_bundle)

    with torch.inference_mode():
        assert torch.equal(bundle.net(x), net(x))


@pytest.mark.parametrize("file", ["model.pt2", "example.json", "README.md", "bundle.json"])
def test_one_altered_byte_is_refused_with_the_name_of_the_file(table_bundle: Path, file: str) -> None:
    content = bytearray((table_bundle / file).read_bytes())
    position = content.index(b"flowers") if file == "bundle.json" else len(content) // 2
    content[position] ^= 1
    (table_bundle / file).write_bytes(content)

    with pytest.raises(BundleError, match=file):
        load_bundle(table_bundle)


@pytest.mark.parametrize("file", ["model.pt2", "example.json", "README.md", "bundle.json"])
def test_a_missing_file_is_refused_by_name(table_bundle: Path, file: str) -> None:
    (table_bundle / file).unlink()

    with pytest.raises(BundleError, match=file):
        load_bundle(table_bundle)


def test_an_unlisted_file_is_refused_by_name(table_bundle: Path) -> None:
    (table_bundle / "extra.py").write_text("print('hello')")

    with pytest.raises(BundleError, match=r"extra\.py is not listed"):
        verify_bundle(table_bundle)


def test_a_symlink_in_place_of_a_file_is_refused(table_bundle: Path, tmp_path: Path) -> None:
    (table_bundle / "README.md").rename(tmp_path / "elsewhere.md")
    (table_bundle / "README.md").symlink_to(tmp_path / "elsewhere.md")

    with pytest.raises(BundleError, match=r"README\.md"):
        verify_bundle(table_bundle)


@pytest.mark.parametrize("name", ["bundle.json", "extra"])
def test_what_is_no_plain_file_is_refused(table_bundle: Path, name: str) -> None:
    """A pipe would be waited for without end; a link leads outside."""
    manifest = table_bundle / "bundle.json"
    if name == "bundle.json":
        manifest.rename(table_bundle.parent / "elsewhere.json")
        manifest.symlink_to(table_bundle.parent / "elsewhere.json")
    else:
        os.mkfifo(table_bundle / name)
        files = Manifest.model_validate_json(manifest.read_text()).files
        rewrite_manifest(table_bundle, files=files | {name: "0" * 64})

    with pytest.raises(BundleError, match=r"holds no bundle\.json|extra was altered"):
        verify_bundle(table_bundle)


def test_a_manifest_that_is_nested_too_deeply_is_refused(table_bundle: Path) -> None:
    (table_bundle / "bundle.json").write_text("[" * 100_000)

    with pytest.raises(BundleError, match=r"bundle\.json is not JSON"):
        verify_bundle(table_bundle)


def test_another_bundle_than_the_pinned_one_is_refused(table_bundle: Path, image_bundle: Path) -> None:
    pinned = verify_bundle(table_bundle).digest

    with pytest.raises(BundleError, match=r"bundle\.json.*registry pinned"):
        load_bundle(image_bundle, pinned)


def test_an_unknown_key_in_the_manifest_is_an_error(table_bundle: Path) -> None:
    manifest = json.loads((table_bundle / "bundle.json").read_text())
    (table_bundle / "bundle.json").write_text(json.dumps(manifest | {"surprise": 1}))

    with pytest.raises(BundleError, match="surprise"):
        verify_bundle(table_bundle)


class TouchesFile:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("member", ["a weight", "the example inputs", "a custom object"])
def test_a_pickle_inside_the_program_is_refused_before_it_runs(table_bundle: Path, tmp_path: Path, member: str) -> None:
    program, hostile_program = table_bundle / "model.pt2", tmp_path / "hostile.pt2"
    buffer = io.BytesIO()
    torch.save(TouchesFile(tmp_path / "ran"), buffer)
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(hostile_program, "w") as target:
        root = source.namelist()[0].split("/")[0]
        for name in source.namelist():
            content = source.read(name)
            if member == "a weight" and name.endswith("weight_0"):
                content = buffer.getvalue()
            if member == "a weight" and name.endswith("weights_config.json"):
                config = json.loads(content)
                next(iter(config["config"].values()))["use_pickle"] = True
                content = json.dumps(config).encode()
            if member == "the example inputs" and name.endswith("sample_inputs/model.pt"):
                content = buffer.getvalue()
            target.writestr(name, content)
        if member == "a custom object":
            target.writestr(f"{root}/data/constants/custom_obj_0", buffer.getvalue())
    hostile_program.replace(program)
    rewrite_manifest(table_bundle)

    with pytest.raises(BundleError, match=r"model\.pt2 .*holds .* pickle"):
        load_bundle(table_bundle)
    assert not (tmp_path / "ran").exists()


def test_a_manifest_that_lists_no_files_is_refused(table_bundle: Path) -> None:
    for file in ("model.pt2", "example.json", "README.md"):
        (table_bundle / file).unlink()
    rewrite_manifest(table_bundle, files={})

    with pytest.raises(BundleError, match="is not listed"):
        verify_bundle(table_bundle)


def test_no_file_of_a_bundle_holds_a_pickle(table_bundle: Path, image_bundle: Path) -> None:
    for folder in (table_bundle, image_bundle):
        with zipfile.ZipFile(folder / "model.pt2") as archive:
            for name in archive.namelist():
                content = archive.read(name)
                # A pickle of protocol 2 and up starts with PROTO, an older zip of torch holds one as data.pkl.
                assert not name.endswith(".pkl")
                assert not (content[:1] == b"\x80" and content[-1:] == b"."), name
                assert not zipfile.is_zipfile(archive.open(name)), name


AUTHOR = """
from pathlib import Path
import torch
from torch import nn
from training import ClassOutput, ModelInfo, TableInput, save_bundle

class Unusual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
    def forward(self, x):
        return self.inner(torch.sin(x))

save_bundle(
    Path("bundle"), Unusual(), inputs=torch.ones(2, 2),
    info=ModelInfo(
        name="unusual", task="tabular-classification",
        input_schema=TableInput(features=("p", "q")), output_schema=ClassOutput(labels=("no", "yes")),
    ),
)
"""

READER = """
import sys
from pathlib import Path
from training import load_bundle

try:
    import unusual_author
    sys.exit("the author's module can be imported here: this proves nothing")
except ModuleNotFoundError:
    pass
bundle = load_bundle(Path("bundle"))
import torch
print(tuple(bundle.net(torch.ones(5, 2)).shape))
"""


def test_a_bundle_loads_where_its_authors_code_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "unusual_author.py").write_text(AUTHOR)
    subprocess.run([sys.executable, "code/unusual_author.py"], cwd=tmp_path, check=True)

    result = subprocess.run([sys.executable, "-c", READER], cwd=tmp_path, capture_output=True, text=True)

    assert (result.returncode, result.stdout.strip()) == (0, "(5, 2)"), result.stderr


def test_a_net_of_another_output_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"returns \(2, 5\) for 2 rows; .* 'classes' must return \(2, 2\)"):
        save_bundle(tmp_path / "b", nn.Linear(2, 5), inputs=torch.ones(2, 2), info=INFO)


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 2) if len(x) == 2 else x


def test_a_net_of_one_fixed_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dynamic batch dimension"):
        save_bundle(tmp_path / "b", FixedBatch(), inputs=torch.ones(2, 2), info=INFO)
    assert not (tmp_path / "b").exists()


def test_the_card_describes_inputs_and_labels(table_bundle: Path) -> None:
    card = (table_bundle / "README.md").read_text()

    assert "# flowers" in card
    assert "`input`: FP32, shape (any, 4)" in card
    assert "labels: a, b, c" in card


@pytest.mark.parametrize(
    ("bundle_format", "message"),
    [
        (2, r"has bundle format 2; this Shoal reads format 3: .* save it again with training\.save_bundle"),
        (None, r"has bundle format null; this Shoal reads format 3"),
        (4, r"has bundle format 4; this Shoal reads format 3: load it with the Shoal that wrote it"),
    ],
)
def test_a_bundle_of_another_format_is_refused_in_one_line(
    table_bundle: Path, bundle_format: int | None, message: str
) -> None:
    manifest = json.loads((table_bundle / "bundle.json").read_text())
    # A format-2 manifest has other keys; they are not what the message is about.
    old_keys = {"words": manifest.pop("input_schema"), "answer": manifest.pop("output_schema")}
    (table_bundle / "bundle.json").write_text(json.dumps(manifest | old_keys | {"format": bundle_format}))

    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(table_bundle)

    assert "\n" not in str(caught.value)


def test_a_program_that_would_not_load_is_refused_when_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_with_another_layout(program: torch.export.ExportedProgram, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/archive_format", "pt2")
            archive.writestr("model/data/new_layout", "")

    monkeypatch.setattr(torch.export, "save", save_with_another_layout)

    with pytest.raises(UserError, match=r"cannot be served: model\.pt2 holds 'model/data/new_layout'"):
        save_bundle(tmp_path / "b", nn.Linear(2, 2), inputs=torch.ones(2, 2), info=INFO)

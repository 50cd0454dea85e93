import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from training.bundle.load import load_bundle, verify_bundle
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.errors import BundleError, UserError
from training.schema import ClassOutput, TableInput

ABOUT = ModelInfo(
    name="x",
    task="tabular-classification",
    input_schema=TableInput(features=("a", "b")),
    output_schema=ClassOutput(labels=("no", "yes")),
)


def test_a_loaded_bundle_computes_what_the_net_computed(table_bundle: Path) -> None:
    torch.manual_seed(0)
    from training.zoo.nets.mlp import mlp

    net = mlp(4, [8], 3).eval()
    x = torch.randn(7, 4)

    loaded = load_bundle(table_bundle)

    with torch.inference_mode():
        assert torch.equal(loaded.net(x), net(x))


@pytest.mark.parametrize("file", ["model.pt2", "example.json", "README.md", "bundle.json"])
def test_a_single_altered_byte_is_refused_with_the_files_name(table_bundle: Path, file: str) -> None:
    raw = bytearray((table_bundle / file).read_bytes())
    position = raw.index(b"flowers") if file == "bundle.json" else len(raw) // 2
    raw[position] ^= 1
    (table_bundle / file).write_bytes(raw)

    with pytest.raises(BundleError, match=file):
        load_bundle(table_bundle)


@pytest.mark.parametrize("file", ["model.pt2", "example.json", "README.md", "bundle.json"])
def test_a_missing_file_is_refused_by_name(table_bundle: Path, file: str) -> None:
    (table_bundle / file).unlink()

    with pytest.raises(BundleError, match=file):
        load_bundle(table_bundle)


def test_a_file_that_is_not_listed_is_refused_by_name(table_bundle: Path) -> None:
    (table_bundle / "extra.py").write_text("print('hello')")

    with pytest.raises(BundleError, match=r"extra\.py is not listed"):
        verify_bundle(table_bundle)


def test_a_link_in_place_of_a_file_is_refused(table_bundle: Path, tmp_path: Path) -> None:
    (table_bundle / "README.md").rename(tmp_path / "elsewhere.md")
    (table_bundle / "README.md").symlink_to(tmp_path / "elsewhere.md")

    with pytest.raises(BundleError, match=r"README\.md"):
        verify_bundle(table_bundle)


def test_a_whole_bundle_put_in_place_of_another_is_refused_by_the_pin(table_bundle: Path, image_bundle: Path) -> None:
    pinned = verify_bundle(table_bundle).digest

    with pytest.raises(BundleError, match=r"bundle\.json.*registry pinned"):
        load_bundle(image_bundle, pinned)


def test_an_unknown_key_in_the_manifest_is_an_error(table_bundle: Path) -> None:
    manifest = json.loads((table_bundle / "bundle.json").read_text())
    (table_bundle / "bundle.json").write_text(json.dumps(manifest | {"surprise": 1}))

    with pytest.raises(BundleError, match="surprise"):
        verify_bundle(table_bundle)


def redone(folder: Path, file: str) -> None:
    """Do what a hostile maker can: write checksums and digest anew, so that they fit."""
    manifest = Manifest.model_validate_json((folder / "bundle.json").read_bytes())
    files = manifest.files | {file: hashlib.sha256((folder / file).read_bytes()).hexdigest()}
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / "bundle.json").write_text(manifest.model_dump_json())


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("where", ["a weight", "the example inputs", "a custom object"])
def test_a_pickle_inside_the_program_is_refused_before_it_runs(table_bundle: Path, tmp_path: Path, where: str) -> None:
    program, evil = table_bundle / "model.pt2", tmp_path / "evil.pt2"
    buffer = io.BytesIO()
    torch.save(Payload(tmp_path / "ran"), buffer)
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(evil, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            content = old.read(name)
            if where == "a weight" and name.endswith("weight_0"):
                content = buffer.getvalue()
            if where == "a weight" and name.endswith("weights_config.json"):
                config = json.loads(content)
                next(iter(config["config"].values()))["use_pickle"] = True
                content = json.dumps(config).encode()
            if where == "the example inputs" and name.endswith("sample_inputs/model.pt"):
                content = buffer.getvalue()
            new.writestr(name, content)
        if where == "a custom object":
            new.writestr(f"{root}/data/constants/custom_obj_0", buffer.getvalue())
    evil.replace(program)
    redone(table_bundle, "model.pt2")

    with pytest.raises(BundleError, match=r"model\.pt2 holds .* pickle"):
        load_bundle(table_bundle)
    assert not (tmp_path / "ran").exists()


def test_a_manifest_that_lists_nothing_is_refused(table_bundle: Path) -> None:
    manifest = Manifest.model_validate_json((table_bundle / "bundle.json").read_bytes())
    manifest = manifest.model_copy(update={"files": {}})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    for file in ("model.pt2", "example.json", "README.md"):
        (table_bundle / file).unlink()
    (table_bundle / "bundle.json").write_text(manifest.model_dump_json())

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
import torch
from torch import nn
from training import bundle
from training.schema import Classes, TableWords

class Unusual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
    def forward(self, x):
        return self.inner(torch.sin(x))

bundle.save(
    __import__("pathlib").Path("bundle"), Unusual(), inputs=torch.ones(2, 2),
    about=bundle.About(
        name="unusual", task="tabular-classification",
        words=TableWords(features=("p", "q")), answer=Classes(labels=("no", "yes")),
    ),
)
"""

READER = """
import sys
from pathlib import Path
from training import bundle

try:
    import unusual_author
    sys.exit("the author's module can be imported here: this proves nothing")
except ModuleNotFoundError:
    pass
loaded = bundle.load(Path("bundle"))
import torch
print(tuple(loaded.net(torch.ones(5, 2)).shape))
"""


def test_a_bundle_loads_where_its_authors_code_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "unusual_author.py").write_text(AUTHOR)
    subprocess.run([sys.executable, "code/unusual_author.py"], cwd=tmp_path, check=True)

    done = subprocess.run([sys.executable, "-c", READER], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stdout.strip()) == (0, "(5, 2)"), done.stderr


def test_a_net_of_another_output_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gives \(2, 5\) for 2 rows; .* classes must give \(2, 2\)"):
        save_bundle(tmp_path / "b", nn.Linear(2, 5), inputs=torch.ones(2, 2), info=ABOUT)


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 2) if len(x) == 2 else x


def test_a_net_that_is_bound_to_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="free batch dimension"):
        save_bundle(tmp_path / "b", FixedBatch(), inputs=torch.ones(2, 2), info=ABOUT)
    assert not (tmp_path / "b").exists()


def test_the_card_tells_what_a_caller_needs(table_bundle: Path) -> None:
    card = (table_bundle / "README.md").read_text()

    assert "# flowers" in card
    assert "`input`: FP32, shape (any, 4)" in card
    assert "labels: a, b, c" in card

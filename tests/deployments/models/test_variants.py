"""The forms that a net is served in: near what it was, for every kind of net, or refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from deployments.models import variants
from deployments.models.compiled import CompiledNet
from deployments.models.replica import ServedModel
from deployments.protocols.predict.codec import PredictCodec, encode_json
from deployments.settings import Limits
from deployments.specs.model import Dtype, Endpoint
from training.bundle.load import load_bundle, verify_bundle
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.errors import BundleError, UserError
from training.recipe.spec import TokenizerConfig
from training.schema import ClassOutput, ImageInput, SeriesInput, TableInput, TextInput
from training.zoo.nets.cnn import cnn
from training.zoo.nets.mlp import mlp
from training.zoo.nets.recurrent import recurrent_classifier, sequence_classifier
from training.zoo.nets.transformer import transformer_classifier

MOST = 24
TEXTS = ["a quick brown fox jumps over the dog", "the dog sleeps"]


class Picture(nn.Module):
    """A convolutional net that takes bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cnn(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x.float() / 255)
        return y


def save(folder: Path, kind: str, **more: object) -> Manifest:
    torch.manual_seed(0)
    answer, options = ClassOutput(labels=("a", "b", "c")), dict[str, object]()
    if kind == "table":
        words, task, net, x = (
            TableInput(features=("p", "q")),
            "tabular-classification",
            mlp(2, [16], 3),
            torch.randn(2, 2),
        )
    elif kind == "image":
        words, task, net = ImageInput(height=28, width=28, mode="L"), "image-classification", Picture()
        x = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    elif kind.startswith("series"):
        words, task = SeriesInput(features=("p", "q"), max_time_steps=MOST), "audio-classification"
        net, x = sequence_classifier(2, 3, kind.removeprefix("series-"), width=8), torch.randn(2, 7, 2)
    else:
        words, task = TextInput(max_tokens=MOST), "text-classification"
        tokeniser = Tokenizer.fit(TokenizerConfig(kind="characters", max_tokens=MOST), TEXTS)
        options = {"tokeniser": tokeniser, "example": TEXTS[0]}
        cell = kind.removeprefix("text-")
        net = (
            transformer_classifier(len(tokeniser), 3, width=32, buckets=64)
            if cell == "transformer"
            else recurrent_classifier(len(tokeniser), 3, cell, dim=16, width=8)
        )
        x = torch.tensor([tokeniser.encode(TEXTS[0]).ids[:MOST]] * 2)
    about = ModelInfo(name="x", task=task, input_schema=words, output_schema=answer, **more)
    return save_bundle(folder, net, inputs=x, info=about, **options)  # type: ignore[arg-type]


def endpoint(folder: Path, dtype: Dtype = "fp32", compiled: bool = False) -> Endpoint:
    digest, limits = verify_bundle(folder).digest, Limits(max_batch_rows=16)
    return Endpoint(name="x", version=1, digest=digest, uri=str(folder), limits=limits, dtype=dtype, compile=compiled)


def formed(folder: Path, dtype: Dtype = "fp32", compiled: bool = False) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """The net as it was, in the form asked for, and the bundle's own example."""
    loaded, wanted = load_bundle(folder), endpoint(folder, dtype, compiled)
    codec = PredictCodec(loaded.manifest, "1", wanted.limits, loaded.tokenizer)
    rows = codec.decode(encode_json(loaded.example), "").rows
    assert rows is not None
    other = variants.build_variant(loaded.net, wanted, loaded.manifest, rows, "cpu", folder.parent / "cache")
    return load_bundle(folder).net, other, torch.from_numpy(rows[0][None])


KINDS = ["table", "image", "series-gru", "series-lstm", "series-rnn", "text-lstm", "text-gru", "text-transformer"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_net_in_bf16_is_near_what_it_was_and_gives_the_same_types(tmp_path: Path, kind: str) -> None:
    manifest = save(tmp_path / "b", kind)

    net, other, x = formed(tmp_path / "b", "bf16")

    for rows in (1, 2, 5):
        x_B = x.expand(rows, *x.shape[1:])
        with torch.inference_mode():
            wanted, given = net(x_B), other(x_B)
        assert given.dtype == wanted.dtype == torch.float32
        assert 0 < variants.max_relative_difference((given,), (wanted,)) <= manifest.tolerance


def test_weights_that_only_products_read_are_held_in_bf16_and_no_others(tmp_path: Path) -> None:
    save(tmp_path / "b", "text-transformer")

    _, other, _ = formed(tmp_path / "b", "bf16")

    held = {name for name, weight in other.named_parameters() if weight.dtype == torch.bfloat16}
    assert {name.rpartition(".")[2] for name in held} == {"weight", "bias"}
    assert any("query_key_value" in name for name in held)
    assert not any("norm" in name or "table" in name for name in held)


def test_a_net_further_away_than_its_bundle_allows_is_refused_with_both_numbers_and_the_remedy(tmp_path: Path) -> None:
    save(tmp_path / "b", "table", tolerance=1e-6)

    with pytest.raises(
        UserError,
        match=r"x in bf16 differs from fp32 by 0\.00\d+ .* tolerance is 1e-06; deploy it without --dtype bf16, or",
    ) as found:
        formed(tmp_path / "b", "bf16")
    assert "\n" not in str(found.value)


class Overflows(nn.Module):
    """Fine in fp32; in bf16 a difference of large products is rounded away."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(2, 3), nn.Linear(2, 3)
        self.other.load_state_dict(self.one.state_dict())
        nn.init.constant_(self.one.bias, 4096.0)
        nn.init.constant_(self.other.bias, 4095.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.one(x) - self.other(x)
        return y


def test_a_net_that_bf16_ruins_is_refused_by_the_default_tolerance(tmp_path: Path) -> None:
    about = ModelInfo(
        name="x",
        task="tabular-classification",
        input_schema=TableInput(features=("p", "q")),
        output_schema=ClassOutput(labels=("a", "b", "c")),
    )
    save_bundle(tmp_path / "b", Overflows(), inputs=torch.randn(2, 2), info=about)

    with pytest.raises(UserError, match=r"tolerance is 0\.05"):
        formed(tmp_path / "b", "bf16")


@pytest.mark.parametrize(
    ("given", "wanted", "apart"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([1.0, -torch.inf], [1.0, -torch.inf], 0.0),
        ([1.0, torch.nan], [1.0, 1.0], torch.inf),
        ([0.0], [0.0], 0.0),
        ([1.0], [1.0, 1.0], torch.inf),
    ],
)
def test_the_distance_is_a_share_of_the_largest_number(given: list[float], wanted: list[float], apart: float) -> None:
    assert variants.max_relative_difference((torch.tensor(given),), (torch.tensor(wanted),)) == apart


@pytest.mark.parametrize("kind", ["series-gru", "text-rnn"])
def test_a_recurrence_that_does_not_compile_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "b", kind)

    with pytest.raises(
        UserError, match=r"x cannot be compiled: it holds (gru|rnn_tanh), .*; deploy it without --compile"
    ):
        formed(tmp_path / "b", compiled=True)


def test_without_a_cpp_compiler_nothing_is_compiled_and_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "b", "table")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "g++-that-nobody-has"))

    with pytest.raises(UserError, match=r"no C\+\+ compiler .* apt-get install g\+\+.*without --compile"):
        formed(tmp_path / "b", compiled=True)


def test_bundles_from_before_there_was_a_tolerance_load_and_have_the_default(tmp_path: Path) -> None:
    manifest = save(tmp_path / "b", "table")
    old = Manifest.model_validate(manifest.model_dump(mode="json", exclude={"tolerance"}))
    content = old.model_copy(update={"digest": old.computed_digest()}).model_dump_json(exclude={"tolerance"})
    (tmp_path / "b" / "bundle.json").write_text(content)

    found = verify_bundle(tmp_path / "b")

    assert found.tolerance == 0.05
    assert found.digest != manifest.digest


def test_a_tolerance_is_sealed_and_stands_on_the_card(tmp_path: Path) -> None:
    save(tmp_path / "b", "table", tolerance=0.125)
    path = tmp_path / "b" / "bundle.json"
    assert "at most 0.12 of the largest output" in (tmp_path / "b" / "README.md").read_text()

    path.write_text(path.read_text().replace("0.125", "0.5"))

    with pytest.raises(BundleError, match="altered"):
        verify_bundle(tmp_path / "b")


def test_a_replica_comes_up_in_its_endpoints_form_or_not_at_all(tmp_path: Path) -> None:
    save(tmp_path / "b", "table", tolerance=1e-6)

    ServedModel(endpoint(tmp_path / "b"), tmp_path / "cache")
    with pytest.raises(UserError, match="x in bf16 differs"):
        ServedModel(endpoint(tmp_path / "b", "bf16"), tmp_path / "cache")


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "dtype"), [("table", "bf16"), ("image", "fp32"), ("text-lstm", "fp32")])
def test_a_compiled_net_takes_any_number_of_rows_and_compiles_nothing_more(
    tmp_path: Path, kind: str, dtype: Dtype
) -> None:
    manifest = save(tmp_path / "b", kind)

    net, other, x = formed(tmp_path / "b", dtype, compiled=True)

    assert isinstance(other, CompiledNet)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    for rows in (1, 2, 3, 7, 16):
        x_B = x.expand(rows, *x.shape[1:])
        for steps in (2, 5, MOST) if kind.startswith("text") else (None,):
            x_BT = x_B if steps is None else nn.functional.pad(x_B[:, :steps], (0, max(0, steps - x_B.shape[1])))
            with torch.inference_mode():
                wanted, given = net(x_BT), other(x_BT)
            assert given.dtype == torch.float32
            assert variants.max_relative_difference((given,), (wanted,)) <= manifest.tolerance
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    # The next replica takes what is there.
    again = formed(tmp_path / "b", dtype, compiled=True)[1]
    with torch.inference_mode():
        assert torch.equal(again(x), other(x))
    made = [path for path in files if path.name == "net.pt2"]
    assert [path.stat().st_mtime_ns for path in made] == [files[path] for path in made]

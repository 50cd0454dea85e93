"""Variants of a net: within the tolerance for every kind of net, or refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from deployments.models.compiled import CompiledNet
from deployments.models.served_model import ServedModel
from deployments.models.variants import build_variant, max_relative_difference
from deployments.protocols.predict.codec import PredictCodec, encode_json
from deployments.settings import Limits
from deployments.specs.model_deployment import Dtype, ModelEndpoint
from training.bundle.load import load_bundle
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.bundle.verify import verify_bundle
from training.data.tokenizer import Tokenizer
from training.errors import BundleError, UserError
from training.recipe.spec import TokenizerConfig
from training.schema import ClassOutput, ImageInput, SeriesInput, TableInput, TextInput
from training.zoo.nets.cnn import cnn
from training.zoo.nets.mlp import mlp
from training.zoo.nets.recurrent import rnn_series_classifier, rnn_text_classifier
from training.zoo.nets.transformer import transformer_classifier

MAX_LENGTH = 24
TEXTS = ["a quick brown fox jumps over the dog", "the dog sleeps"]


class ImageNet(nn.Module):
    """A convolutional net that takes uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cnn(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x.float() / 255)
        return y


Save = Callable[..., Manifest]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return a function that saves a bundle of one of KINDS; each is exported once, which takes most of a second."""
    saved: dict[str, Path] = {}

    def save_copy(folder: Path, kind: str, **info: object) -> Manifest:
        key = f"{kind} {info}"
        if key not in saved:
            saved[key] = tmp_path_factory.mktemp("saved") / "bundle"
            export(saved[key], kind, **info)
        shutil.copytree(saved[key], folder)
        return verify_bundle(folder)

    return save_copy


def export(folder: Path, kind: str, **info: object) -> None:
    torch.manual_seed(0)
    output_schema, options = ClassOutput(labels=("a", "b", "c")), dict[str, object]()
    if kind == "table":
        input_schema, task, net, x = (
            TableInput(features=("p", "q")),
            "tabular-classification",
            mlp(2, [16], 3),
            torch.randn(2, 2),
        )
    elif kind == "image":
        input_schema, task, net = ImageInput(height=28, width=28, mode="L"), "image-classification", ImageNet()
        x = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    elif kind.startswith("series"):
        input_schema, task = SeriesInput(features=("p", "q"), max_time_steps=MAX_LENGTH), "audio-classification"
        net, x = rnn_series_classifier(2, 3, kind.removeprefix("series-"), hidden_size=8), torch.randn(2, 7, 2)
    else:
        input_schema, task = TextInput(max_tokens=MAX_LENGTH), "text-classification"
        tokenizer = Tokenizer.fit(TokenizerConfig(kind="characters", max_tokens=MAX_LENGTH), TEXTS)
        options = {"tokenizer": tokenizer, "example": TEXTS[0]}
        cell_type = kind.removeprefix("text-")
        net = (
            transformer_classifier(len(tokenizer), 3, hidden_size=32, num_buckets=64)
            if cell_type == "transformer"
            else rnn_text_classifier(len(tokenizer), 3, cell_type, embedding_dim=16, hidden_size=8)
        )
        x = torch.tensor([tokenizer.encode(TEXTS[0]).ids[:MAX_LENGTH]] * 2)
    model_info = ModelInfo(name="x", task=task, input_schema=input_schema, output_schema=output_schema, **info)
    save_bundle(folder, net, inputs=x, info=model_info, **options)  # type: ignore[arg-type]


def make_endpoint(folder: Path, dtype: Dtype = "fp32", compiled: bool = False) -> ModelEndpoint:
    digest, limits = verify_bundle(folder).digest, Limits(max_batch_rows=16)
    return ModelEndpoint(
        name="x", version=1, digest=digest, uri=str(folder), limits=limits, dtype=dtype, compile=compiled
    )


def build(folder: Path, dtype: Dtype = "fp32", compiled: bool = False) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Build a variant; returns the bundle's net, the variant, and the bundle's example."""
    bundle, endpoint = load_bundle(folder), make_endpoint(folder, dtype, compiled)
    codec = PredictCodec(bundle.manifest, "1", endpoint.limits, bundle.tokenizer)
    rows = codec.decode_request(encode_json(bundle.example), "application/json").rows
    assert rows is not None
    variant = build_variant(bundle.net, endpoint, bundle.manifest, rows, "cpu", folder.parent / "cache")
    return load_bundle(folder).net, variant, torch.from_numpy(rows[0][None])


KINDS = ["table", "image", "series-gru", "series-lstm", "series-rnn", "text-lstm", "text-gru", "text-transformer"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_net_in_bf16_is_within_the_tolerance_and_keeps_its_dtypes(
    tmp_path: Path, save: Save, kind: str
) -> None:
    manifest = save(tmp_path / "b", kind)

    net, variant, x = build(tmp_path / "b", "bf16")

    for rows in (1, 2, 5):
        x_B = x.expand(rows, *x.shape[1:])
        with torch.inference_mode():
            expected, actual = net(x_B), variant(x_B)
        assert actual.dtype == expected.dtype == torch.float32
        assert 0 < max_relative_difference((actual,), (expected,)) <= manifest.tolerance


def test_weights_that_only_matrix_products_read_are_stored_in_bf16_and_no_others(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "b", "text-transformer")

    _, variant, _ = build(tmp_path / "b", "bf16")

    bf16_weights = {name for name, weight in variant.named_parameters() if weight.dtype == torch.bfloat16}
    assert {name.rpartition(".")[2] for name in bf16_weights} == {"weight", "bias"}
    assert any("qkv_proj" in name for name in bf16_weights)
    assert not any("norm" in name or "embedding" in name for name in bf16_weights)


def test_a_net_beyond_its_bundles_tolerance_is_refused_with_both_numbers_and_the_remedy(
    tmp_path: Path, save: Save
) -> None:
    save(tmp_path / "b", "table", tolerance=1e-6)

    with pytest.raises(
        UserError,
        match=r"x in bf16 differs from fp32 by 0\.00\d+ .* tolerance is 1e-06; deploy it without --dtype bf16, or",
    ) as error:
        build(tmp_path / "b", "bf16")
    assert "\n" not in str(error.value)


class Cancellation(nn.Module):
    """Exact in fp32; in bf16 a difference of large products is rounded away."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 3)
        self.second.load_state_dict(self.first.state_dict())
        nn.init.constant_(self.first.bias, 4096.0)
        nn.init.constant_(self.second.bias, 4095.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.first(x) - self.second(x)
        return y


def test_a_net_that_bf16_ruins_is_refused_by_the_default_tolerance(tmp_path: Path) -> None:
    info = ModelInfo(
        name="x",
        task="tabular-classification",
        input_schema=TableInput(features=("p", "q")),
        output_schema=ClassOutput(labels=("a", "b", "c")),
    )
    save_bundle(tmp_path / "b", Cancellation(), inputs=torch.randn(2, 2), info=info)

    with pytest.raises(UserError, match=r"tolerance is 0\.05"):
        build(tmp_path / "b", "bf16")


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([1.0, -torch.inf], [1.0, -torch.inf], 0.0),
        ([1.0, torch.nan], [1.0, 1.0], torch.inf),
        ([0.0], [0.0], 0.0),
        ([1.0], [1.0, 1.0], torch.inf),
    ],
)
def test_the_difference_is_relative_to_the_largest_number(
    actual: list[float], expected: list[float], difference: float
) -> None:
    assert max_relative_difference((torch.tensor(actual),), (torch.tensor(expected),)) == difference


@pytest.mark.parametrize("kind", ["series-gru", "text-rnn"])
def test_a_recurrence_that_does_not_compile_is_refused_at_once(tmp_path: Path, save: Save, kind: str) -> None:
    save(tmp_path / "b", kind)

    with pytest.raises(
        UserError, match=r"x cannot be compiled: it uses (gru|rnn_tanh), .*; deploy it without --compile"
    ):
        build(tmp_path / "b", compiled=True)


def test_without_a_cpp_compiler_the_deployment_is_refused_with_the_remedy(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "b", "table")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "g++-that-nobody-has"))

    with pytest.raises(UserError, match=r"no C\+\+ compiler .* apt-get install g\+\+.*without --compile"):
        build(tmp_path / "b", compiled=True)


def test_a_bundle_without_a_tolerance_has_the_default(tmp_path: Path, save: Save) -> None:
    manifest = save(tmp_path / "b", "table")
    old = Manifest.model_validate(manifest.model_dump(mode="json", exclude={"tolerance"}))
    content = old.model_copy(update={"digest": old.computed_digest()}).model_dump_json(exclude={"tolerance"})
    (tmp_path / "b" / "bundle.json").write_text(content)

    loaded = verify_bundle(tmp_path / "b")

    assert loaded.tolerance == 0.05
    assert loaded.digest != manifest.digest


def test_a_tolerance_is_on_the_card_and_part_of_the_digest(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "b", "table", tolerance=0.125)
    path = tmp_path / "b" / "bundle.json"
    assert "at most 0.12 of the largest output" in (tmp_path / "b" / "README.md").read_text()

    path.write_text(path.read_text().replace("0.125", "0.5"))

    with pytest.raises(BundleError, match="altered"):
        verify_bundle(tmp_path / "b")


def test_a_model_is_served_in_its_endpoints_variant_or_not_at_all(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "b", "table", tolerance=1e-6)

    ServedModel(make_endpoint(tmp_path / "b"), tmp_path / "cache")
    with pytest.raises(UserError, match="x in bf16 differs"):
        ServedModel(make_endpoint(tmp_path / "b", "bf16"), tmp_path / "cache")


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "dtype"), [("table", "bf16"), ("image", "fp32"), ("text-lstm", "fp32")])
def test_a_compiled_net_takes_any_number_of_rows_without_compiling_again(
    tmp_path: Path, save: Save, kind: str, dtype: Dtype
) -> None:
    manifest = save(tmp_path / "b", kind)

    net, variant, x = build(tmp_path / "b", dtype, compiled=True)

    assert isinstance(variant, CompiledNet)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    for rows in (1, 2, 3, 7, 16):
        x_B = x.expand(rows, *x.shape[1:])
        for length in (2, 5, MAX_LENGTH) if kind.startswith("text") else (None,):
            x_BT = x_B if length is None else nn.functional.pad(x_B[:, :length], (0, max(0, length - x_B.shape[1])))
            with torch.inference_mode():
                expected, actual = net(x_BT), variant(x_BT)
            assert actual.dtype == torch.float32
            assert max_relative_difference((actual,), (expected,)) <= manifest.tolerance
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    # The next replica loads it from the cache.
    again = build(tmp_path / "b", dtype, compiled=True)[1]
    with torch.inference_mode():
        assert torch.equal(again(x), variant(x))
    packages = [path for path in files if path.name == "net.pt2"]
    assert [path.stat().st_mtime_ns for path in packages] == [files[path] for path in packages]

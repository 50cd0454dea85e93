from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from training import tasks
from training.errors import UserError
from training.recipe.load import import_path, list_builtin_recipes, load_recipe, override_recipe
from training.recipe.spec import OPTIMIZERS, PRIMARY_METRICS, Data, Net, Recipe, TaskName

RECIPE = """
from training import Recipe
recipe = Recipe(name='x', task='tabular-regression', net={{'source': 'a:b'}}, {})
"""


def test_every_builtin_recipe_loads_and_has_the_name_of_its_file() -> None:
    assert {"digits-cnn", "iris"} <= set(list_builtin_recipes())
    for name in list_builtin_recipes():
        assert load_recipe(name).name == name


def test_a_recipe_survives_serialization_to_the_workers() -> None:
    recipe = load_recipe("digits-cnn")

    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_class_or_function_is_converted_to_its_python_path() -> None:
    from training.zoo.nets.mlp import mlp

    assert Net(source=mlp).source == "training.zoo.nets.mlp:mlp"
    assert import_path("training.zoo.nets.mlp:mlp") is mlp


@pytest.mark.parametrize(
    "path", ["training.zoo.nets.mlp:nothing", "no.such.module:x", "training.zoo.nets.mlp:__name__"]
)
def test_a_path_that_names_no_callable_is_refused_by_name(path: str) -> None:
    with pytest.raises(UserError, match=path.split(":")[0]):
        import_path(path)


def test_an_error_in_the_module_of_a_net_says_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_net_module.py").write_text("sizes = {}\nsizes['width']\n")

    with pytest.raises(UserError, match=r"cannot be imported: KeyError: 'width' \(broken_net_module.py, line 2\)$"):
        import_path("broken_net_module:net")


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe(name="x", task="tabular-classification", data=Data(source="a:b"), net=Net(source="a:b"), epochs=3)  # type: ignore[call-arg]


def test_a_batch_too_small_for_its_workers_is_refused_with_the_rule() -> None:
    with pytest.raises(UserError, match="batch_size=16 is less than workers=9 times gradient_accumulation=2"):
        override_recipe(load_recipe("iris"), ["workers=9", "gradient_accumulation=2"])


def test_overrides_reach_inner_keys_and_keep_their_type() -> None:
    overrides = ["optimizer.lr=0.5", "net.args.hidden_sizes=[8, 8]", "optimizer.name=SGD"]

    changed = override_recipe(load_recipe("iris"), overrides)

    assert changed.optimizer.lr == 0.5
    assert changed.net.args["hidden_sizes"] == [8, 8]
    assert changed.optimizer.name == "SGD"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lrr=1", r"no key 'lrr'; did you mean 'lr'\? valid keys: name, lr, args\.$"),
        ('stop={"epoch": 3}', r"stop.epoch: no such key; did you mean 'epochs'\? valid keys: epochs, steps"),
        ("optimzer.lr=1", "valid keys: name, task"),
        ("seed.x=1", "'seed' holds one value"),
        ("seed", "has no value"),
        ("optimizer.lr=-1", "greater than 0"),
        ("optimizer.name=Adan", "torch.optim has no 'Adan'"),
    ],
)
def test_a_wrong_override_is_refused_with_the_remedy(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override_recipe(load_recipe("iris"), [setting])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "binds no `recipe`"),
        ("recipe = 1", "is a int"),
        ("\nimport nothing_like_this", r"cannot be imported: ModuleNotFoundError: .* \(FILE, line 2\)"),
        ("x = {}\n\nx['price']", r"cannot be imported: KeyError: 'price' \(FILE, line 3\)"),
        ("x = 1\ndef f(:\n    pass", r"cannot be imported: SyntaxError: invalid syntax \(FILE, line 2\)"),
        (
            "from training import StopRule\n\nrecipe = StopRule(epochs=0)",
            r"^FILE, line 3: StopRule: epochs: .* greater than or equal to 1 \(got 0\)",
        ),
        (
            "from training import Optimizer\n\ndef f():\n    return Optimizer(lrr=1)\n\nf()",
            r"^FILE, line 4: Optimizer: lrr: no such key; did you mean 'lr'\? valid keys: name, lr, args$",
        ),
        (
            RECIPE.format("data={'source': 'a:b'}, batchsize=3"),
            r"^FILE, line 3: batchsize: no such key; did you mean 'batch_size'\? valid keys: name, task, summary, ",
        ),
        (
            RECIPE.format("data={'path': 'x', 'format': 'csv', 'target': 'y', 'txt': 'z'}"),
            r"^FILE, line 3: data.files.txt: no such key; did you mean 'text'\? valid keys: path, format, target, ",
        ),
        (
            RECIPE.format("data={'source': 'a:b', 'sed': 1}"),
            r"^FILE, line 3: data.rows.sed: no such key; did you mean 'seed'\? valid keys: source, args, "
            r"test_fraction, validation_fraction, seed$",
        ),
        (
            "from training import TableInput\nTableInput(featurs=('a',))",
            r"^FILE, line 2: TableInput: .*featurs: no such key; did you mean 'features'\?",
        ),
        (
            "from training.zoo.nets.bag_of_ngrams import bag_of_ngrams\n"
            "bag_of_ngrams(vocab_size=10, num_classes=2, combiner='max')",
            r"FILE: combiner='max'; use 'mean' or 'sqrtn' \(bag_of_ngrams.py, line \d+\)$",
        ),
    ],
)
def test_a_wrong_recipe_file_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    file = tmp_path / f"recipe_{abs(hash(content))}.py"
    message = message.replace("FILE", file.name)
    file.write_text(content)

    with pytest.raises(UserError, match=message) as caught:
        load_recipe(str(file))

    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_name_lists_the_builtin_recipes() -> None:
    with pytest.raises(UserError, match="digits-cnn"):
        load_recipe("digits")


def test_a_recipe_file_must_not_shadow_an_importable_module(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")

    with pytest.raises(UserError, match="rename it"):
        load_recipe(str(tmp_path / "json.py"))


def test_the_listed_optimizers_are_those_of_the_installed_torch() -> None:
    classes = {name for name, value in vars(torch.optim).items() if isinstance(value, type)}

    assert set(OPTIMIZERS) == classes - {"Optimizer"}


def test_the_listed_primary_metrics_are_those_of_the_tasks() -> None:
    assert set(PRIMARY_METRICS) == set(get_args(TaskName))
    for name, metric in PRIMARY_METRICS.items():
        assert tasks.get_primary_metric(name) == metric

from pathlib import Path

import pytest
from pydantic import ValidationError

from training.errors import UserError
from training.recipe.load import import_path, list_builtin_recipes, load_recipe, override_recipe
from training.recipe.spec import Data, Net, Recipe


def test_every_ready_recipe_loads_and_is_named_like_its_file() -> None:
    assert {"digits-cnn", "iris"} <= set(list_builtin_recipes())
    for name in list_builtin_recipes():
        assert load_recipe(name).name == name


def test_a_recipe_survives_its_trip_to_the_workers() -> None:
    recipe = load_recipe("digits-cnn")

    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_class_given_in_python_is_written_down_as_its_path() -> None:
    from training.zoo.nets.mlp import mlp

    assert Net(source=mlp).source == "training.zoo.nets.mlp:mlp"
    assert import_path("training.zoo.nets.mlp:mlp") is mlp


@pytest.mark.parametrize(
    "path", ["training.zoo.nets.mlp:nothing", "no.such.module:x", "training.zoo.nets.mlp:__name__"]
)
def test_a_path_that_names_no_callable_is_refused_by_name(path: str) -> None:
    with pytest.raises(UserError, match=path.split(":")[0]):
        import_path(path)


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe(name="x", task="tabular-classification", data=Data(source="a:b"), net=Net(source="a:b"), epochs=3)  # type: ignore[call-arg]


def test_a_batch_too_small_for_its_workers_is_refused_with_the_rule() -> None:
    with pytest.raises(UserError, match="batch_rows=16 is less than workers=9 times accumulate=2"):
        override_recipe(load_recipe("iris"), ["workers=9", "accumulate=2"])


def test_overrides_reach_inner_keys_and_keep_their_type() -> None:
    changed = override_recipe(load_recipe("iris"), ["optimiser.lr=0.5", "net.args.hidden=[8, 8]", "optimiser.name=SGD"])

    assert changed.optimizer.lr == 0.5
    assert changed.net.args["hidden"] == [8, 8]
    assert changed.optimizer.name == "SGD"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimiser.lrr=1", "valid here: name, lr, args."),
        ("optimizer.lr=1", "valid here: name, task"),
        ("seed.x=1", "'seed' holds one value"),
        ("seed", "has no value"),
        ("optimiser.lr=-1", "greater than 0"),
        ("optimiser.name=Adan", "torch.optim has no 'Adan'"),
    ],
)
def test_a_wrong_override_says_what_would_be_right(setting: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        override_recipe(load_recipe("iris"), [setting])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1", "binds no `recipe`"),
        ("recipe = 1", "is a int"),
        ("import nothing_like_this", "cannot be imported"),
        ("from training.recipe import Stop\nrecipe = Stop(epochs=0)", "epochs"),
    ],
)
def test_a_wrong_recipe_file_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    file = tmp_path / f"recipe_{abs(hash(content))}.py"
    file.write_text(content)

    with pytest.raises(UserError, match=said) as caught:
        load_recipe(str(file))

    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_recipe_lists_those_there_are() -> None:
    with pytest.raises(UserError, match="digits-cnn"):
        load_recipe("digits")


def test_a_recipe_file_may_not_hide_a_module_that_exists(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")

    with pytest.raises(UserError, match="rename it"):
        load_recipe(str(tmp_path / "json.py"))

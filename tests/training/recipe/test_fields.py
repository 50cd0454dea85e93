from training.recipe.fields import RecipeKey, list_keys
from training.recipe.load import load_recipe, override_recipe
from training.recipe.spec import Files


def keys_of(name: str) -> dict[str, RecipeKey]:
    return {key.key: key for key in list_keys(load_recipe(name))}


def test_a_key_has_its_value_default_type_and_description() -> None:
    key = keys_of("digits-cnn")["optimizer.lr"]

    assert (key.value, key.default, key.type) == (0.004, 0.001, "number, > 0")
    assert key.description == "Learning rate after warmup."


def test_every_listed_key_can_be_overridden_with_its_own_value() -> None:
    recipe = load_recipe("entities")
    listed = [key for key in list_keys(recipe) if not key.description.endswith("Where `data` is Files.")]

    for key in listed:
        top, _, rest = key.key.partition(".")
        if not rest or getattr(recipe, top) is not None:
            assert override_recipe(recipe, [f"{key.key}={RecipeKey.model_dump_json(key, include={'value'})[9:-1]}"])


def test_the_keys_of_files_are_listed_where_rows_are_in_memory() -> None:
    keys = keys_of("iris")

    for name in Files.model_fields:
        assert f"data.{name}" in keys
    assert keys["data.shuffle_buffer_rows"].description.endswith("Where `data` is Files.")
    assert not keys["data.test_fraction"].description.endswith("Where `data` is Files.")


def test_the_keys_of_a_model_that_the_recipe_leaves_out_have_their_defaults() -> None:
    key = keys_of("iris")["tokenizer.vocab_size"]

    assert (key.value, key.default, key.type) == (8192, 8192, "integer, >= 4")

import dataclasses

import pytest
import torch
from sklearn.model_selection import train_test_split

from training.data.cleaning import clean_dataset
from training.data.dataset import Dataset, load_dataset
from training.data.split import count_leaks, split_dataset
from training.errors import UserError
from training.recipe.spec import Cleaning, Data
from training.schema import SPLITS, TableInput
from training.zoo.datasets.digits import digits
from training.zoo.datasets.tables import iris


def make_dataset(per_class: int) -> Dataset:
    """Rows whose input is their own index, so that each can be followed."""
    count = 3 * per_class
    return Dataset(
        inputs=torch.arange(count, dtype=torch.float32).unsqueeze(1),
        targets=torch.arange(count) % 3,
        labels=("a", "b", "c"),
        input_schema=TableInput(features=("number",)),
        source="generated",
        license="CC0",
    )


def test_no_row_is_in_two_splits_and_none_is_lost() -> None:
    splits = split_dataset(make_dataset(50), Data(source="a:b"))

    rows = [set(splits[split].tolist()) for split in SPLITS]
    assert [len(r) for r in rows] == [108, 12, 30]
    assert set.union(*rows) == set(range(150))


def test_every_split_has_the_classes_in_the_same_proportion() -> None:
    dataset = make_dataset(50)

    for rows in split_dataset(dataset, Data(source="a:b")).values():
        assert len(set(dataset.targets[rows].bincount().tolist())) == 1


def test_the_seed_alone_decides_the_split() -> None:
    first, repeated = (split_dataset(make_dataset(50), Data(source="a:b", seed=1)) for _ in range(2))
    other = split_dataset(make_dataset(50), Data(source="a:b", seed=2))

    assert torch.equal(first["test"], repeated["test"])
    assert not torch.equal(first["test"], other["test"])


def test_a_regression_set_is_split_as_by_scikit_learn_for_the_same_seed() -> None:
    dataset = Dataset(inputs=torch.arange(442.0)[:, None], targets=torch.arange(442.0))

    splits = split_dataset(dataset, Data(source="a:b", seed=42))

    assert set(splits["test"].tolist()) == set(train_test_split(range(442), test_size=0.2, random_state=42)[1])


def test_a_data_sets_own_test_rows_are_the_test_split_whatever_the_seed() -> None:
    dataset = dataclasses.replace(make_dataset(50), test_index=torch.arange(120, 150))

    splits = split_dataset(dataset, Data(source="a:b", seed=7))

    assert splits["test"].tolist() == list(range(120, 150))
    assert max(splits["train"].max(), splits["validation"].max()) < 120


def test_a_duplicate_row_is_kept_once_and_one_with_two_labels_not_at_all() -> None:
    texts = ["good", "bad", " good ", "odd", "odd", "fine"]
    dataset = Dataset(inputs=texts, targets=torch.tensor([1, 0, 1, 0, 1, 1]), labels=("no", "yes"))

    kept = clean_dataset(dataset, Cleaning())

    assert kept.inputs == ["good", "bad", "fine"]
    assert kept.targets.tolist() == [1, 0, 1]
    assert kept.dropped_rows == {"duplicates": 1, "contradictory": 2}
    assert clean_dataset(dataset, Cleaning(duplicates="keep")).inputs == texts


def test_a_naive_split_of_duplicates_leaks_and_the_cleaned_one_does_not() -> None:
    texts = [f"text {i // 4}" for i in range(200)]
    dataset = Dataset(inputs=texts, targets=torch.tensor([i // 4 % 2 for i in range(200)]), labels=("no", "yes"))
    data = Data(source="a:b")

    assert count_leaks(dataset, split_dataset(dataset, data)) > 30
    cleaned = clean_dataset(dataset, Cleaning())
    assert count_leaks(cleaned, split_dataset(cleaned, data)) == 0


def test_equal_inputs_with_different_numbers_are_measurements_and_stay() -> None:
    dataset = Dataset(inputs=torch.ones(3, 2), targets=torch.tensor([1.0, 2.0, 2.0]))

    assert clean_dataset(dataset, Cleaning()).targets.tolist() == [1.0, 2.0]


def test_a_class_too_small_for_three_splits_is_named() -> None:
    with pytest.raises(UserError, match="class 'a' has 2 rows"):
        split_dataset(make_dataset(2), Data(source="a:b"))


def test_the_fingerprint_changes_with_a_single_value() -> None:
    dataset = make_dataset(50)
    changed = dataclasses.replace(dataset, inputs=dataset.inputs.clone().index_fill(0, torch.tensor([7]), 0.5))

    assert dataset.fingerprint() == make_dataset(50).fingerprint() != changed.fingerprint()


@pytest.mark.parametrize(("source", "rows", "labels"), [(digits, 5000, 10), (iris, 150, 3)], ids=["digits", "iris"])
def test_the_packaged_data_sets_have_the_expected_rows(source: object, rows: int, labels: int) -> None:
    dataset = load_dataset(Data(source=source))  # type: ignore[arg-type]

    assert len(dataset.inputs) == rows
    assert dataset.targets.bincount().tolist() == [rows // labels] * labels


def test_a_missing_number_is_refused_dropped_or_left_to_be_imputed() -> None:
    dataset = make_dataset(5)
    dataset.inputs[4] = float("nan")

    with pytest.raises(UserError, match=r"row 4 has a value that is missing.*clean\.missing"):
        clean_dataset(dataset, Cleaning())
    assert clean_dataset(dataset, Cleaning(missing="drop")).dropped_rows == {"missing": 1}
    assert len(clean_dataset(dataset, Cleaning(missing="mean"))) == 15


class MapStyleRows:
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index), 1.0]), index % 2

    def info(self) -> dict[str, object]:
        return {"labels": ("even", "odd"), "input_schema": TableInput(features=("n", "one")), "source": "counted"}


class RowsWithOldInfo(MapStyleRows):
    def info(self) -> dict[str, object]:
        return {"labels": ("even", "odd"), "licence": "CC0"}


class RowsWithAbout:
    def about(self) -> dict[str, object]:
        return {}


def test_an_object_with_three_methods_is_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.dataset.import_path", lambda path: MapStyleRows)

    dataset = load_dataset(Data(source="a:b"))

    assert dataset.inputs.shape == (20, 2)
    assert dataset.targets.tolist() == [0, 1] * 10


def dataset_with_unnamed_class() -> Dataset:
    return dataclasses.replace(make_dataset(5), labels=("a", "b"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (dataset_with_unnamed_class, r"targets are in 0\.\.2, but there are 2 labels"),
        (lambda: 3, "return a training.Dataset"),
        (RowsWithAbout, "'about' is called 'info' now"),
        (RowsWithOldInfo, "'licence' is called 'license' now"),
        (lambda: Dataset([], words=None), "'words' is called 'input_schema' now"),  # type: ignore[call-arg]
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(
    monkeypatch: pytest.MonkeyPatch, source: object, expected: str
) -> None:
    monkeypatch.setattr("training.data.dataset.import_path", lambda path: source)

    with pytest.raises(UserError, match=expected):
        load_dataset(Data(source="a:b"))

import dataclasses

import pytest
import torch
from sklearn.model_selection import train_test_split

from training.data.cleaning import clean_dataset
from training.data.dataset import Dataset, load_dataset
from training.data.preprocessing import EncodedRows, iter_batches
from training.data.split import count_leaks, split_dataset
from training.errors import UserError
from training.recipe.spec import Cleaning, Data
from training.schema import SPLITS, TableInput
from training.zoo.datasets.digits import digits
from training.zoo.datasets.tables import iris


def numbered(per_class: int) -> Dataset:
    """Rows that carry their own number, so that each can be followed."""
    count = 3 * per_class
    return Dataset(
        inputs=torch.arange(count, dtype=torch.float32).unsqueeze(1),
        targets=torch.arange(count) % 3,
        labels=("a", "b", "c"),
        input_schema=TableInput(features=("number",)),
        source="made here",
        license="none needed",
    )


def test_no_row_is_in_two_parts_and_none_is_lost() -> None:
    parts = split_dataset(numbered(50), Data(source="a:b"))

    seen = [set(parts[part].tolist()) for part in SPLITS]
    assert [len(s) for s in seen] == [108, 12, 30]
    assert set.union(*seen) == set(range(150))


def test_every_part_holds_the_classes_in_the_same_proportion() -> None:
    dataset = numbered(50)

    for rows in split_dataset(dataset, Data(source="a:b")).values():
        assert len(set(dataset.targets[rows].bincount().tolist())) == 1


def test_the_seed_alone_decides_the_split() -> None:
    first, again = (split_dataset(numbered(50), Data(source="a:b", seed=1)) for _ in range(2))
    other = split_dataset(numbered(50), Data(source="a:b", seed=2))

    assert torch.equal(first["test"], again["test"])
    assert not torch.equal(first["test"], other["test"])


def test_numbers_are_divided_as_scikit_learn_does_for_the_same_seed() -> None:
    dataset = Dataset(inputs=torch.arange(442.0)[:, None], targets=torch.arange(442.0))

    parts = split_dataset(dataset, Data(source="a:b", seed=42))

    assert set(parts["test"].tolist()) == set(train_test_split(range(442), test_size=0.2, random_state=42)[1])


def test_rows_that_the_data_set_holds_out_are_the_test_part_whatever_the_seed() -> None:
    dataset = dataclasses.replace(numbered(50), test_index=torch.arange(120, 150))

    parts = split_dataset(dataset, Data(source="a:b", seed=7))

    assert parts["test"].tolist() == list(range(120, 150))
    assert max(parts["train"].max(), parts["validation"].max()) < 120


def test_a_row_that_comes_twice_is_kept_once_and_one_with_two_labels_not_at_all() -> None:
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


def test_equal_inputs_with_unequal_numbers_are_measurements_and_stay() -> None:
    dataset = Dataset(inputs=torch.ones(3, 2), targets=torch.tensor([1.0, 2.0, 2.0]))

    assert clean_dataset(dataset, Cleaning()).targets.tolist() == [1.0, 2.0]


def test_a_class_too_small_for_three_parts_is_named() -> None:
    with pytest.raises(UserError, match="class 'a' has 2 rows"):
        split_dataset(numbered(2), Data(source="a:b"))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_workers_share_each_step_and_see_no_row_twice_in_an_epoch(world: int) -> None:
    dataset = numbered(50)
    rows = EncodedRows(dataset.inputs, dataset.targets)

    seen = [
        number
        for rank in range(world)
        for batch in iter_batches(rows, batch_rows=16, seed=0, epoch=3, rank=rank, world=world, skip=0)
        for number in batch.inputs.flatten().tolist()
    ]

    assert len(seen) == len(set(seen)) == 144


def test_the_rows_of_a_step_do_not_depend_on_how_many_workers_share_it() -> None:
    dataset = numbered(50)
    rows = EncodedRows(dataset.inputs, dataset.targets)

    def step(world: int) -> set[float]:
        shares = [iter_batches(rows, batch_rows=16, seed=0, epoch=0, rank=r, world=world, skip=0) for r in range(world)]
        return {n for share in shares for n in next(share).inputs.flatten().tolist()}

    assert step(1) == step(2) == step(3) == step(4)


def test_an_epoch_that_is_entered_half_way_goes_on_where_it_was() -> None:
    dataset = numbered(50)
    rows = EncodedRows(dataset.inputs, dataset.targets)

    def epoch(skip: int) -> list[list[float]]:
        found = iter_batches(rows, batch_rows=16, seed=0, epoch=2, rank=1, world=2, skip=skip)
        return [batch.inputs.flatten().tolist() for batch in found]

    assert epoch(skip=5) == epoch(skip=0)[5:]


def test_rows_of_like_length_share_a_step_and_are_no_longer_than_their_longest() -> None:
    lengths = torch.randint(1, 100, (3200,), generator=torch.Generator().manual_seed(0))
    inputs = (torch.arange(100)[None] < lengths[:, None]).long()
    rows = EncodedRows(inputs, torch.zeros(3200), lengths)

    found = list(iter_batches(rows, batch_rows=32, seed=0, epoch=0, rank=0, world=1, skip=0))

    assert sum(len(batch) for batch in found) == 3200
    filled = sum(batch.inputs.numel() - int(batch.inputs.sum()) for batch in found)
    assert filled / sum(batch.inputs.numel() for batch in found) < 0.05
    assert all(batch.inputs.shape[1] == batch.lengths.max() for batch in found)


def test_the_fingerprint_changes_with_a_single_value() -> None:
    dataset = numbered(50)
    changed = dataclasses.replace(dataset, inputs=dataset.inputs.clone().index_fill(0, torch.tensor([7]), 0.5))

    assert dataset.fingerprint() == numbered(50).fingerprint() != changed.fingerprint()


@pytest.mark.parametrize(("source", "rows", "labels"), [(digits, 5000, 10), (iris, 150, 3)], ids=["digits", "iris"])
def test_the_packaged_sets_are_those_we_know(source: object, rows: int, labels: int) -> None:
    dataset = load_dataset(Data(source=source))  # type: ignore[arg-type]

    assert len(dataset.inputs) == rows
    assert dataset.targets.bincount().tolist() == [rows // labels] * labels


def test_a_missing_number_is_refused_dropped_or_left_for_the_mean() -> None:
    dataset = numbered(5)
    dataset.inputs[4] = float("nan")

    with pytest.raises(UserError, match=r"row 4 has a value that is missing.*clean\.missing"):
        clean_dataset(dataset, Cleaning())
    assert clean_dataset(dataset, Cleaning(missing="drop")).dropped_rows == {"missing": 1}
    assert len(clean_dataset(dataset, Cleaning(missing="mean"))) == 15


class ThreeMethods:
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index), 1.0]), index % 2

    def about(self) -> dict[str, object]:
        return {"labels": ("even", "odd"), "words": TableInput(features=("n", "one")), "source": "counted"}


def test_an_object_with_three_methods_is_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.dataset.load_path", lambda path: ThreeMethods)

    dataset = load_dataset(Data(source="a:b"))

    assert dataset.inputs.shape == (20, 2)
    assert dataset.targets.tolist() == [0, 1] * 10


def unnamed_class() -> Dataset:
    return dataclasses.replace(numbered(5), labels=("a", "b"))


@pytest.mark.parametrize(
    ("source", "said"), [(unnamed_class, "0..2 over 2 labels"), (lambda: 3, "return a training.data.dataset.Dataset")]
)
def test_rows_that_cannot_be_trained_on_are_refused(monkeypatch: pytest.MonkeyPatch, source: object, said: str) -> None:
    monkeypatch.setattr("training.data.dataset.load_path", lambda path: source)

    with pytest.raises(UserError, match=said):
        load_dataset(Data(source="a:b"))

import dataclasses

import pytest
import torch

from training import datasets
from training.data import Dataset, Rows, batches, load, split
from training.errors import Mistake
from training.recipe import Data
from training.words import TableWords


def numbered(per_class: int) -> Dataset:
    """Rows that carry their own number, so that each can be followed."""
    count = 3 * per_class
    return Dataset(
        inputs=torch.arange(count, dtype=torch.float32).unsqueeze(1),
        targets=torch.arange(count) % 3,
        labels=("a", "b", "c"),
        words=TableWords(features=("number",)),
        source="made here",
        licence="none needed",
    )


def test_no_row_is_in_two_parts_and_none_is_lost() -> None:
    parts = split(numbered(50), Data(source="a:b"))

    seen = [set(rows.inputs.flatten().tolist()) for rows in (parts.train, parts.validation, parts.test)]
    assert [len(s) for s in seen] == [108, 12, 30]
    assert set.union(*seen) == set(range(150))


def test_every_part_holds_the_classes_in_the_same_proportion() -> None:
    parts = split(numbered(50), Data(source="a:b"))

    for rows in (parts.train, parts.validation, parts.test):
        assert len(set(rows.targets.bincount().tolist())) == 1


def test_the_seed_alone_decides_the_split() -> None:
    first, again = (split(numbered(50), Data(source="a:b", seed=1)) for _ in range(2))
    other = split(numbered(50), Data(source="a:b", seed=2))

    assert torch.equal(first.test.inputs, again.test.inputs)
    assert not torch.equal(first.test.inputs, other.test.inputs)


def test_a_class_too_small_for_three_parts_is_named() -> None:
    with pytest.raises(Mistake, match="class 'a' has 2 rows"):
        split(numbered(2), Data(source="a:b"))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_share_each_step_and_see_no_row_twice_in_an_epoch(world: int) -> None:
    dataset = numbered(50)
    rows = Rows(dataset.inputs, dataset.targets)

    seen = [
        number
        for rank in range(world)
        for batch in batches(rows, batch_rows=16, seed=0, epoch=3, rank=rank, world=world)
        for number in batch.inputs.flatten().tolist()
    ]

    assert len(seen) == len(set(seen)) == 144


def test_the_rows_of_a_step_do_not_depend_on_how_many_workers_share_it() -> None:
    dataset = numbered(50)
    rows = Rows(dataset.inputs, dataset.targets)

    def step(world: int) -> list[float]:
        first = [next(iter(batches(rows, batch_rows=16, seed=0, epoch=0, rank=r, world=world))) for r in range(world)]
        return [n for batch in first for n in batch.inputs.flatten().tolist()]

    assert step(1) == step(2) == step(4)


def test_the_fingerprint_changes_with_a_single_value() -> None:
    dataset = numbered(50)
    changed = dataclasses.replace(dataset, inputs=dataset.inputs.clone().index_fill(0, torch.tensor([7]), 0.5))

    assert dataset.fingerprint() == numbered(50).fingerprint() != changed.fingerprint()


@pytest.mark.parametrize(
    ("source", "rows", "labels"), [(datasets.digits, 5000, 10), (datasets.iris, 150, 3)], ids=["digits", "iris"]
)
def test_the_packaged_sets_are_those_we_know(source: object, rows: int, labels: int) -> None:
    dataset = load(Data(source=source))  # type: ignore[arg-type]

    assert len(dataset.inputs) == rows
    assert dataset.targets.bincount().tolist() == [rows // labels] * labels


def not_finite() -> Dataset:
    dataset = numbered(5)
    dataset.inputs[4] = float("nan")
    return dataset


def unnamed_class() -> Dataset:
    return dataclasses.replace(numbered(5), labels=("a", "b"))


@pytest.mark.parametrize(("source", "said"), [(not_finite, "row 4"), (unnamed_class, "0..2 over 2 labels")])
def test_rows_that_cannot_be_trained_on_are_refused(monkeypatch: pytest.MonkeyPatch, source: object, said: str) -> None:
    monkeypatch.setattr("training.data.load_path", lambda path: source)

    with pytest.raises(Mistake, match=said):
        load(Data(source="a:b"))

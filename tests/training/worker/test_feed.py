import pytest
import torch

from training.data.preprocessing import EncodedRows
from training.worker.feed import iter_batches


def make_rows(count: int) -> EncodedRows:
    """Rows whose input is their own index, so that each can be followed."""
    return EncodedRows(torch.arange(count, dtype=torch.float32).unsqueeze(1), torch.arange(count) % 3)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_workers_share_each_batch_and_see_no_row_twice_in_an_epoch(world_size: int) -> None:
    rows = make_rows(150)

    row_ids = [
        row_id
        for rank in range(world_size)
        for batch in iter_batches(rows, batch_size=16, seed=0, epoch=3, rank=rank, world_size=world_size, skip_steps=0)
        for row_id in batch.inputs.flatten().tolist()
    ]

    assert len(row_ids) == len(set(row_ids)) == 144


def test_the_rows_of_a_batch_do_not_depend_on_the_number_of_workers() -> None:
    rows = make_rows(150)

    def first_batch(world_size: int) -> set[float]:
        shards = [
            iter_batches(rows, batch_size=16, seed=0, epoch=0, rank=rank, world_size=world_size, skip_steps=0)
            for rank in range(world_size)
        ]
        return {row_id for shard in shards for row_id in next(shard).inputs.flatten().tolist()}

    assert first_batch(1) == first_batch(2) == first_batch(3) == first_batch(4)


def test_an_interrupted_epoch_resumes_where_it_was() -> None:
    rows = make_rows(150)

    def read_epoch(skip_steps: int) -> list[list[float]]:
        batches = iter_batches(rows, batch_size=16, seed=0, epoch=2, rank=1, world_size=2, skip_steps=skip_steps)
        return [batch.inputs.flatten().tolist() for batch in batches]

    assert read_epoch(skip_steps=5) == read_epoch(skip_steps=0)[5:]


def test_rows_of_similar_length_share_a_batch_padded_to_its_longest() -> None:
    lengths = torch.randint(1, 100, (3200,), generator=torch.Generator().manual_seed(0))
    inputs = (torch.arange(100)[None] < lengths[:, None]).long()
    rows = EncodedRows(inputs, torch.zeros(3200), lengths)

    batches = list(iter_batches(rows, batch_size=32, seed=0, epoch=0, rank=0, world_size=1, skip_steps=0))

    assert sum(len(batch) for batch in batches) == 3200
    padding = sum(batch.inputs.numel() - int(batch.inputs.sum()) for batch in batches)
    assert padding / sum(batch.inputs.numel() for batch in batches) < 0.05
    assert all(batch.inputs.shape[1] == int(batch.lengths.max()) for batch in batches)

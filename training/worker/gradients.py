"""Gradients of one optimizer step, by a strategy that can be replaced.

Train walk: training_worker.py -> [gradients.py] -> parallel.py
Another strategy (private gradients by per-sample clipping, local steps of federated learning) is a class that takes
the worker, as `GradientAccumulation` does, and is passed to `train_worker` as `gradient_step`. Knows nothing of the
optimizer or the loop.
"""
# Shapes: B rows of this worker's share of the batch.

import torch
from torch import Tensor, nn

from training.data.preprocessing import EncodedRows
from training.worker.parallel import skip_gradient_sync
from training.worker.training_worker import Worker


class GradientAccumulation:
    """The default: gradients of the mean loss over all workers' rows, from one forward pass or several micro-batches.

    Under autocast where the recipe's precision says so; synchronized once, in the last backward pass; clipped to
    `clip_grad_norm`.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __call__(self, batch: EncodedRows) -> Tensor:
        """See training_worker.GradientStep."""
        worker, recipe = self._worker, self._worker.recipe
        micro_batches = [batch]
        if recipe.gradient_accumulation > 1:
            micro_batches = _split_rows(batch, recipe.gradient_accumulation)
        total_loss = torch.zeros((), device=worker.device)
        for index, micro_batch in enumerate(micro_batches):
            # DDP and FSDP take the mean over workers, whose numbers of rows may differ: this makes it one over rows.
            weight = len(micro_batch) * worker.world_size / recipe.batch_size
            with skip_gradient_sync(worker.parallel_net, skip=index < len(micro_batches) - 1):
                with worker.timer.measure("forward"), worker.autocast():
                    rows = worker.to_device(micro_batch)
                    loss = worker.task.loss(worker.train_net(rows.inputs), rows)
                with worker.timer.measure("backward"):
                    (loss * weight).backward()
            total_loss += loss.detach() * (len(micro_batch) / len(batch))
        if recipe.clip_grad_norm:
            with worker.timer.measure("optimizer"):
                nn.utils.clip_grad_norm_(worker.net.parameters(), recipe.clip_grad_norm)
        return total_loss


def _split_rows(batch: EncodedRows, count: int) -> list[EncodedRows]:
    """Split a batch into at most `count` micro-batches, none of them empty."""
    indices = torch.arange(len(batch)).tensor_split(count)
    return [batch.select(rows) for rows in indices if len(rows)]

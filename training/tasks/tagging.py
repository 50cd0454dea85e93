"""Token classification: spans of a text, as a BIO tag at each token."""
# Shapes: N texts, B texts of a batch, T tokens, K types; facts are nats and tokens, then hits, false alarms and misses
# of each type.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import prepare
from training.bio import IGNORED, Span, likeliest, spans_of, tags_of
from training.data import Dataset
from training.errors import Mistake
from training.prepare import Rows
from training.tasks.base import Outputs, Task
from training.words import Spans


class Tagging(Task):
    """Cross-entropy at each token; judged by the F1 of exact spans (Tjong Kim Sang, De Meulder, 2003)."""

    metric = "span_f1"

    @property
    def sizes(self) -> dict[str, int]:
        """O, and B and I of each type."""
        return super().sizes | {"classes": 1 + 2 * len(self.labels)}

    def rows(self, dataset: Dataset) -> Rows:
        """Targets are tags, filled up with what the loss leaves out."""
        inputs, lengths, tokens = prepare.encode(self.fitted, dataset)
        if dataset.targets is None:
            raise Mistake("token classification takes a list of spans for each text; the data set gives none")
        tags = [
            torch.tensor(tags_of(spans, each.offsets, self.labels))
            for spans, each in zip(dataset.targets, tokens, strict=True)
        ]
        targets = torch.nn.utils.rnn.pad_sequence(tags, batch_first=True, padding_value=IGNORED)
        return Rows(inputs, targets, lengths)

    def default_loss(self, output: Outputs, batch: Rows) -> Tensor:
        """Cross-entropy, mean over tokens."""
        assert isinstance(output, Tensor)
        return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)

    def facts(self, net: nn.Module, output: Outputs, batch: Rows) -> Tensor:
        """Nats, tokens, and hits, false alarms and misses of each type."""
        assert isinstance(output, Tensor)
        nats_BT = F.cross_entropy(output.float().transpose(1, 2), batch.targets, ignore_index=IGNORED, reduction="none")
        counted_BT = batch.targets != IGNORED
        tags = likeliest(output, counted_BT).cpu()
        counts = [self._counts(*pair) for pair in zip(tags.tolist(), batch.targets.cpu().tolist(), strict=True)]
        return torch.cat(
            [torch.stack([nats_BT.sum(1), counted_BT.sum(1)], 1).cpu(), torch.tensor(counts, dtype=torch.float32)], 1
        )

    def scores(self, facts_NK: Tensor) -> dict[str, float]:
        """F1, precision and recall over all types, and cross-entropy per token."""
        counts = facts_NK[:, 2:].double().sum(0).reshape(-1, 3).sum(0)
        nats, tokens = facts_NK[:, :2].double().sum(0).tolist()
        return {f"span_{name}": value for name, value in f1(*counts.tolist()).items()} | {
            "cross_entropy": nats / max(tokens, 1)
        }

    def by_class(self, facts_NK: Tensor) -> dict[str, dict[str, float]]:
        """F1, precision and recall of each type."""
        counts_K3 = facts_NK[:, 2:].double().sum(0).reshape(-1, 3).tolist()
        return {
            label: f1(*counts) | {"rows": counts[0] + counts[2]}
            for label, counts in zip(self.labels, counts_K3, strict=True)
        }

    def answer(self) -> Spans:
        """Types."""
        return Spans(types=self.labels)

    def _counts(self, tags: list[int], truth: list[int]) -> list[int]:
        """Hits, false alarms and misses of each type, in one text."""
        said, true = (self._spans(each) for each in (tags, truth))
        return [
            len(part & {span for span in of if span[2] == label})
            for label in self.labels
            for part, of in ((said & true, true), (said - true, said), (true - said, true))
        ]

    def _spans(self, tags: list[int]) -> set[Span]:
        # A token that is not counted stands for no text.
        places = [(i, i if tag == IGNORED else i + 1) for i, tag in enumerate(tags)]
        return set(spans_of(tags, places, self.labels))


def f1(hits: float, false_alarms: float, misses: float) -> dict[str, float]:
    """F1, precision and recall of counted spans; 0 where there is nothing to count."""
    return {
        "f1": 2 * hits / max(2 * hits + false_alarms + misses, 1),
        "precision": hits / max(hits + false_alarms, 1),
        "recall": hits / max(hits + misses, 1),
    }

"""Token classification: spans of a text, as a BIO tag at each token."""
# Shapes: N texts, B texts of a batch, T tokens, K types; facts are nats and tokens, then hits, false alarms and misses
# of each type.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.bio_tags import IGNORE_INDEX, Span, decode_tags, spans_to_tags, tags_to_spans
from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, encode_inputs
from training.errors import UserError
from training.schema import SpanOutput
from training.tasks.base import Outputs, Task


class TokenClassification(Task):
    """Cross-entropy at each token; judged by the F1 of exact spans (Tjong Kim Sang, De Meulder, 2003)."""

    metric = "span_f1"

    @property
    def net_sizes(self) -> dict[str, int]:
        """O, and B and I of each type."""
        return super().net_sizes | {"classes": 1 + 2 * len(self.labels)}

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Targets are tags, filled up with what the loss leaves out."""
        inputs, lengths, tokens = encode_inputs(self.preprocessing, dataset)
        if dataset.targets is None:
            raise UserError("token classification takes a list of spans for each text; the data set gives none")
        tags = [
            torch.tensor(spans_to_tags(spans, each.offsets, self.labels))
            for spans, each in zip(dataset.targets, tokens, strict=True)
        ]
        targets = torch.nn.utils.rnn.pad_sequence(tags, batch_first=True, padding_value=IGNORE_INDEX)
        return EncodedRows(inputs, targets, lengths)

    def default_loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """Cross-entropy, mean over tokens."""
        assert isinstance(output, Tensor)
        return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)

    def eval_outputs(self, net: nn.Module, output: Outputs, batch: EncodedRows) -> Tensor:
        """Nats, tokens, and hits, false alarms and misses of each type."""
        assert isinstance(output, Tensor)
        nats_BT = F.cross_entropy(
            output.float().transpose(1, 2), batch.targets, ignore_index=IGNORE_INDEX, reduction="none"
        )
        counted_BT = batch.targets != IGNORE_INDEX
        tags = decode_tags(output, counted_BT).cpu()
        counts = [self._counts(*pair) for pair in zip(tags.tolist(), batch.targets.cpu().tolist(), strict=True)]
        return torch.cat(
            [torch.stack([nats_BT.sum(1), counted_BT.sum(1)], 1).cpu(), torch.tensor(counts, dtype=torch.float32)], 1
        )

    def validation_metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """F1, precision and recall over all types, and cross-entropy per token."""
        counts = facts_NK[:, 2:].double().sum(0).reshape(-1, 3).sum(0)
        nats, tokens = facts_NK[:, :2].double().sum(0).tolist()
        return {f"span_{name}": value for name, value in span_f1(*counts.tolist()).items()} | {
            "cross_entropy": nats / max(tokens, 1)
        }

    def per_class_metrics(self, facts_NK: Tensor) -> dict[str, dict[str, float]]:
        """F1, precision and recall of each type."""
        counts_K3 = facts_NK[:, 2:].double().sum(0).reshape(-1, 3).tolist()
        return {
            label: span_f1(*counts) | {"rows": counts[0] + counts[2]}
            for label, counts in zip(self.labels, counts_K3, strict=True)
        }

    def output_schema(self) -> SpanOutput:
        """Types."""
        return SpanOutput(labels=self.labels)

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
        places = [(i, i if tag == IGNORE_INDEX else i + 1) for i, tag in enumerate(tags)]
        return set(tags_to_spans(tags, places, self.labels))


def span_f1(hits: float, false_alarms: float, misses: float) -> dict[str, float]:
    """F1, precision and recall of counted spans; 0 where there is nothing to count."""
    return {
        "f1": 2 * hits / max(2 * hits + false_alarms + misses, 1),
        "precision": hits / max(hits + false_alarms, 1),
        "recall": hits / max(hits + misses, 1),
    }

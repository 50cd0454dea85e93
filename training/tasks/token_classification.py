"""Token classification: labeled spans of a text, as a BIO tag per token."""
# Shapes: N texts of a split, B texts of a batch, T tokens, L span labels; eval outputs K = 2 + 3L: nats and tokens of a
# text, then true positives, false positives and false negatives of each label.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.bio_tags import IGNORE_INDEX, Span, decode_tags, spans_to_tags, tags_to_spans
from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, encode_inputs
from training.errors import UserError
from training.schema import SpanOutput
from training.tasks.base import NetOutput, Task


class TokenClassification(Task):
    """Cross-entropy per token; evaluated by the F1 of exact spans (Tjong Kim Sang, De Meulder, 2003)."""

    primary_metric = "span_f1"

    @property
    def net_sizes(self) -> dict[str, int]:
        """One class for O, and two, B and I, for each label."""
        return super().net_sizes | {"num_classes": 1 + 2 * len(self.labels)}

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Encode texts as tokens and their spans as tags, (N, T), padded with IGNORE_INDEX."""
        inputs, lengths, encodings = encode_inputs(self.preprocessing, dataset)
        if dataset.targets is None:
            raise UserError("task token-classification takes a list of spans for each text; the data set has none")
        tags = [
            torch.tensor(spans_to_tags(spans, encoding.offsets, self.labels))
            for spans, encoding in zip(dataset.targets, encodings, strict=True)
        ]
        targets = torch.nn.utils.rnn.pad_sequence(tags, batch_first=True, padding_value=IGNORE_INDEX)
        return EncodedRows(inputs, targets, lengths)

    def default_loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Cross-entropy, mean over the batch's tokens."""
        assert isinstance(output, Tensor)
        return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)

    def eval_outputs(self, net: nn.Module, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Nats, tokens, and the counts of each label."""
        assert isinstance(output, Tensor)
        nats_BT = F.cross_entropy(
            output.float().transpose(1, 2), batch.targets, ignore_index=IGNORE_INDEX, reduction="none"
        )
        mask_BT = batch.targets != IGNORE_INDEX
        predicted_BT = decode_tags(output, mask_BT).cpu()
        counts = [
            self._count_matches(predicted_tags, true_tags)
            for predicted_tags, true_tags in zip(predicted_BT.tolist(), batch.targets.cpu().tolist(), strict=True)
        ]
        nats_tokens_B2 = torch.stack([nats_BT.sum(1), mask_BT.sum(1)], 1).cpu()
        return torch.cat([nats_tokens_B2, torch.tensor(counts, dtype=torch.float32)], 1)

    def validation_metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """F1, precision and recall over all labels (micro average), and cross-entropy per token."""
        counts_3 = eval_outputs_NK[:, 2:].double().sum(0).reshape(-1, 3).sum(0)
        nats, tokens = eval_outputs_NK[:, :2].double().sum(0).tolist()
        return {f"span_{name}": value for name, value in precision_recall_f1(*counts_3.tolist()).items()} | {
            "cross_entropy": nats / max(tokens, 1)
        }

    def per_class_metrics(self, eval_outputs_NK: Tensor) -> dict[str, dict[str, float]]:
        """F1, precision, recall and support, the number of true spans, of each label."""
        counts_L3 = eval_outputs_NK[:, 2:].double().sum(0).reshape(-1, 3).tolist()
        return {
            label: precision_recall_f1(*counts) | {"support": counts[0] + counts[2]}
            for label, counts in zip(self.labels, counts_L3, strict=True)
        }

    def output_schema(self) -> SpanOutput:
        """The span labels."""
        return SpanOutput(labels=self.labels)

    def _count_matches(self, predicted_tags: list[int], true_tags: list[int]) -> list[int]:
        """True positives, false positives and false negatives of each label in one text."""
        predicted, true = self._decode_spans(predicted_tags), self._decode_spans(true_tags)
        return [
            sum(span[2] == label for span in spans)
            for label in self.labels
            for spans in (predicted & true, predicted - true, true - predicted)
        ]

    def _decode_spans(self, tags: list[int]) -> set[Span]:
        # Token indices in place of character offsets; a masked token has an empty range, as special tokens do.
        offsets = [(i, i if tag == IGNORE_INDEX else i + 1) for i, tag in enumerate(tags)]
        return set(tags_to_spans(tags, offsets, self.labels))


def precision_recall_f1(true_positives: float, false_positives: float, false_negatives: float) -> dict[str, float]:
    """F1, precision and recall of counted spans; 0 where a denominator is 0.

    torchmetrics has no metric over spans; seqeval, which has, reads tags as strings and was last released in 2020.
    """
    return {
        "f1": 2 * true_positives / max(2 * true_positives + false_positives + false_negatives, 1),
        "precision": true_positives / max(true_positives + false_positives, 1),
        "recall": true_positives / max(true_positives + false_negatives, 1),
    }

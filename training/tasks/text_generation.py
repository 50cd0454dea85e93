"""Text generation: the next token after each token of a window."""
# Shapes: N windows, B windows of a batch, T tokens, V vocabulary; facts are nats, tokens and characters of a window.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, tokenize_row
from training.data.tokenizer import Encoding
from training.errors import UserError
from training.schema import TextOutput
from training.tasks.base import Outputs, Task


class TextGeneration(Task):
    """Cross-entropy of the next token; judged in bits per character, which no tokeniser can flatter."""

    metric = "bits_per_character"
    higher_is_better = False

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Cut every text into windows that do not overlap; a window's target is itself, one token later."""
        tokeniser, most = self.preprocessing.tokenizer, self.recipe.tokenizer.max_tokens if self.recipe.tokenizer else 0
        assert tokeniser is not None
        inputs, targets, characters = [], [], []
        for text in dataset.inputs:
            tokens = tokenize_row(tokeniser, text)
            for start in range(0, len(tokens.ids) - most, most):
                window = tokens.ids[start : start + most + 1]
                inputs.append(window[:-1])
                targets.append(window[1:])
                characters.append(_characters(tokens, start + 1, start + most + 1))
        if not inputs:
            raise UserError(f"no text is longer than tokens.max_tokens={most}; lower it")
        return EncodedRows(
            torch.tensor(inputs), torch.tensor(targets), weights=torch.tensor(characters, dtype=torch.float32)
        )

    def default_loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """Cross-entropy over all tokens."""
        assert isinstance(output, Tensor)
        return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten())

    def eval_outputs(self, net: nn.Module, output: Outputs, batch: EncodedRows) -> Tensor:
        """Nats, tokens and characters."""
        assert isinstance(output, Tensor)
        assert batch.weights is not None
        nats_BT = F.cross_entropy(output.float().transpose(1, 2), batch.targets, reduction="none")
        tokens_B = torch.full_like(batch.weights, batch.targets.shape[1])
        return torch.stack([nats_BT.sum(1), tokens_B, batch.weights], 1)

    def validation_metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """Bits per character, and perplexity per token."""
        nats, tokens, characters = facts_NK.double().sum(0).tolist()
        return {"bits_per_character": nats / math.log(2) / characters, "perplexity": math.exp(nats / tokens)}

    def output_schema(self) -> TextOutput:
        """A continued text."""
        return TextOutput()


def _characters(tokens: Encoding, start: int, end: int) -> int:
    """How many characters the tokens start..end stand for; those of one character's bytes count it once."""
    return tokens.offsets[end - 1][1] - tokens.offsets[start - 1][1]

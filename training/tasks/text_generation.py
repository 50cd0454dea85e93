"""Text generation: the next token after each token of a window."""
# Shapes: N windows of a split, B windows of a batch, T tokens, V vocabulary size; eval outputs K = 3: nats, tokens and
# characters of a window.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, tokenize_row
from training.data.tokenizer import Encoding
from training.errors import UserError
from training.schema import TextOutput
from training.tasks.base import NetOutput, Task


class TextGeneration(Task):
    """Cross-entropy of the next token; evaluated in bits per character, which compare across tokenizers."""

    primary_metric = "bits_per_character"
    higher_is_better = False

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Cut each text into windows of `max_tokens` that do not overlap; a target is its window, one token later.

        The windows' weights are their numbers of characters. A last window that is not full is dropped.
        """
        assert self.preprocessing.tokenizer is not None
        assert self.recipe.tokenizer is not None
        max_tokens = self.recipe.tokenizer.max_tokens
        inputs, targets, characters = [], [], []
        for text in dataset.inputs:
            tokens = tokenize_row(self.preprocessing.tokenizer, text)
            for start in range(0, len(tokens.ids) - max_tokens, max_tokens):
                window = tokens.ids[start : start + max_tokens + 1]
                inputs.append(window[:-1])
                targets.append(window[1:])
                characters.append(_count_characters(tokens, start + 1, start + max_tokens + 1))
        if not inputs:
            raise UserError(f"no text is longer than tokenizer.max_tokens={max_tokens} tokens; lower it")
        return EncodedRows(
            torch.tensor(inputs), torch.tensor(targets), weights=torch.tensor(characters, dtype=torch.float32)
        )

    def default_loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Cross-entropy, mean over all tokens."""
        assert isinstance(output, Tensor)
        return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten())

    def eval_outputs(self, net: nn.Module, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Nats, tokens and characters."""
        assert isinstance(output, Tensor)
        assert batch.weights is not None
        nats_BT = F.cross_entropy(output.float().transpose(1, 2), batch.targets, reduction="none")
        tokens_B = torch.full_like(batch.weights, batch.targets.shape[1])
        return torch.stack([nats_BT.sum(1), tokens_B, batch.weights], 1)

    def validation_metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """Bits per character, and perplexity per token."""
        nats, tokens, characters = eval_outputs_NK.double().sum(0).tolist()
        return {"bits_per_character": nats / math.log(2) / characters, "perplexity": math.exp(nats / tokens)}

    def output_schema(self) -> TextOutput:
        """Generated text."""
        return TextOutput()


def _count_characters(tokens: Encoding, start: int, end: int) -> int:
    """Count the characters of tokens[start:end]; one that several byte tokens encode counts once."""
    return tokens.offsets[end - 1][1] - tokens.offsets[start - 1][1]

"""Text generation: the next token after each token of a window."""
# Shapes: N windows, B windows of a batch, T tokens, V vocabulary; facts are nats, tokens and characters of a window.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import prepare
from training.data import Dataset
from training.errors import Mistake
from training.prepare import Rows
from training.tasks.base import Outputs, Task
from training.tokens import Encoded
from training.words import Continuation


class Language(Task):
    """Cross-entropy of the next token; judged in bits per character, which no tokeniser can flatter."""

    metric = "bits_per_character"
    higher = False

    def rows(self, dataset: Dataset) -> Rows:
        """Cut every text into windows that do not overlap; a window's target is itself, one token later."""
        tokeniser, most = self.fitted.tokeniser, self.recipe.tokens.max_tokens if self.recipe.tokens else 0
        assert tokeniser is not None
        inputs, targets, characters = [], [], []
        for text in dataset.inputs:
            tokens = prepare.tokenise(tokeniser, text)
            for start in range(0, len(tokens.ids) - most, most):
                window = tokens.ids[start : start + most + 1]
                inputs.append(window[:-1])
                targets.append(window[1:])
                characters.append(_characters(tokens, start + 1, start + most + 1))
        if not inputs:
            raise Mistake(f"no text is longer than tokens.max_tokens={most}; lower it")
        return Rows(torch.tensor(inputs), torch.tensor(targets), weights=torch.tensor(characters, dtype=torch.float32))

    def default_loss(self, output: Outputs, batch: Rows) -> Tensor:
        """Cross-entropy over all tokens."""
        assert isinstance(output, Tensor)
        return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten())

    def facts(self, net: nn.Module, output: Outputs, batch: Rows) -> Tensor:
        """Nats, tokens and characters."""
        assert isinstance(output, Tensor)
        assert batch.weights is not None
        nats_BT = F.cross_entropy(output.float().transpose(1, 2), batch.targets, reduction="none")
        tokens_B = torch.full_like(batch.weights, batch.targets.shape[1])
        return torch.stack([nats_BT.sum(1), tokens_B, batch.weights], 1)

    def scores(self, facts_NK: Tensor) -> dict[str, float]:
        """Bits per character, and perplexity per token."""
        nats, tokens, characters = facts_NK.double().sum(0).tolist()
        return {"bits_per_character": nats / math.log(2) / characters, "perplexity": math.exp(nats / tokens)}

    def answer(self) -> Continuation:
        """A continued text."""
        return Continuation()


def _characters(tokens: Encoded, start: int, end: int) -> int:
    """How many characters the tokens start..end stand for; those of one character's bytes count it once."""
    return tokens.offsets[end - 1][1] - tokens.offsets[start - 1][1]

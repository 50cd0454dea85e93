import math

import pytest
import torch
from torch import nn

from tests.training.tasks.small_tasks import make_task
from training.data.dataset import Dataset
from training.errors import UserError
from training.recipe.spec import TokenizerConfig


def test_windows_do_not_overlap_and_their_targets_are_one_token_later() -> None:
    dataset = Dataset(["abcdefg"])
    task = make_task("text-generation", dataset, tokenizer=TokenizerConfig(kind="characters", max_tokens=3))

    rows = task.encode_rows(dataset)

    a, b, c, d, e, f, g = rows.inputs[0, 0] + torch.arange(7)
    assert rows.inputs.tolist() == [[a, b, c], [d, e, f]]
    assert rows.targets.tolist() == [[b, c, d], [e, f, g]]


def test_bits_per_character_do_not_depend_on_the_tokenizer() -> None:
    text = "één twee één twee één twee"
    for config in (TokenizerConfig(kind="characters", max_tokens=5), TokenizerConfig(kind="bpe", max_tokens=5)):
        dataset = Dataset([text])
        task = make_task("text-generation", dataset, tokenizer=config)
        rows = task.encode_rows(dataset)
        logits = torch.zeros(*rows.inputs.shape, task.net_sizes["vocab_size"])

        metrics = task.metrics(task.eval_outputs(nn.Identity(), logits, rows))

        # Equal logits: log2(V) bits a token, over the characters that the predicted tokens stand for.
        assert rows.weights is not None
        assert rows.weights.sum() <= len(text)
        bits = math.log2(task.net_sizes["vocab_size"]) * rows.targets.numel()
        assert metrics["bits_per_character"] == pytest.approx(bits / rows.weights.sum().item(), rel=1e-5)
        assert metrics["perplexity"] == pytest.approx(task.net_sizes["vocab_size"], rel=1e-5)


def test_texts_shorter_than_a_window_are_refused() -> None:
    dataset = Dataset(["abc"])
    task = make_task("text-generation", dataset, tokenizer=TokenizerConfig(kind="characters", max_tokens=3))

    with pytest.raises(UserError, match=r"no text is longer than tokenizer\.max_tokens=3 tokens; lower it"):
        task.encode_rows(dataset)

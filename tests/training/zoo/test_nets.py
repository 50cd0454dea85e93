import math

import pytest
import torch

from training.errors import UserError
from training.zoo.nets.bag_of_ngrams import bag_of_ngrams
from training.zoo.nets.cnn import cnn
from training.zoo.nets.mlp import mlp


def test_nets_return_one_logit_per_class() -> None:
    assert mlp(4, [8, 8], 3)(torch.ones(5, 4)).shape == (5, 3)
    assert cnn(1, 10)(torch.ones(5, 1, 28, 28)).shape == (5, 10)


def test_sqrtn_scales_a_repeated_text_by_the_root_of_two() -> None:
    net = bag_of_ngrams(
        vocab_size=10, num_classes=2, ngram_orders=(1,), num_buckets=0, embedding_dim=4, combiner="sqrtn"
    ).eval()

    empty, once, twice = net(torch.tensor([[0, 0, 0, 0], [4, 5, 0, 0], [4, 5, 4, 5]]))

    assert torch.allclose(twice - empty, 2**0.5 * (once - empty), atol=1e-6)


def test_an_unknown_combiner_is_refused() -> None:
    with pytest.raises(UserError, match="combiner='max'; use 'mean' or 'sqrtn'"):
        bag_of_ngrams(vocab_size=10, num_classes=2, combiner="max")  # type: ignore[arg-type]


def test_attention_pooling_weights_a_word_by_the_exponential_of_its_score() -> None:
    net = bag_of_ngrams(
        vocab_size=10, num_classes=2, ngram_orders=(1,), num_buckets=0, embedding_dim=4, attention_pooling=True
    ).eval()

    equal, repeated = net(torch.tensor([[4, 5, 0, 0], [4, 5, 5, 5]]))
    assert net.attention_score is not None
    with torch.no_grad():
        net.attention_score.weight[5] = math.log(3)
    weighted = net(torch.tensor([[4, 5, 0, 0]]))[0]

    assert torch.allclose(weighted, repeated, atol=1e-6)
    assert not torch.allclose(weighted, equal, atol=1e-3)


def test_the_digits_cnn_has_the_documented_number_of_parameters() -> None:
    assert sum(p.numel() for p in cnn(1, 10).parameters()) == 75_706

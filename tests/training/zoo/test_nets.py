import math

import torch

from training.data.augmentation import random_affine
from training.data.input_layers import EncodeColumns, Standardize
from training.zoo.nets.bag import bag
from training.zoo.nets.cnn import cnn
from training.zoo.nets.mlp import mlp


def test_the_standardised_training_rows_have_mean_0_and_deviation_1() -> None:
    x_NF = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, -5.0, 7.0])

    y_NF = Standardize.fit(x_NF)(x_NF)

    assert torch.allclose(y_NF.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(y_NF.std(0, correction=0), torch.ones(3), atol=1e-4)


def test_pictures_are_standardised_per_channel() -> None:
    x = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)

    y = Standardize.fit(x)(x)

    assert y.shape == x.shape
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)


def test_a_constant_feature_stays_finite() -> None:
    assert torch.isfinite(Standardize.fit(torch.ones(4, 2))(torch.ones(4, 2))).all()


def test_a_missing_number_takes_the_mean_and_a_level_a_column_of_its_own() -> None:
    x_NF = torch.tensor([[1.0, 0.0], [3.0, 2.0], [2.0, 1.0], [torch.nan, torch.nan]])

    columns = EncodeColumns.fit(x_NF, [None, 3], fill=True)
    y = columns(x_NF)

    assert columns.width == 4
    assert y[3].tolist() == [0, 0, 0, 0]
    assert y[:3, 1:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert torch.allclose(y[:3, 0].mean(), torch.tensor(0.0), atol=1e-6)


def test_steps_that_fill_up_a_series_stay_what_they_are() -> None:
    x = torch.randn(50, 6, 2) * 3 + 1
    x[:, 4:] = torch.nan

    y = Standardize.fit(x, axis=2)(x)

    assert y[:, 4:].isnan().all()
    assert torch.allclose(y[:, :4].mean((0, 1)), torch.zeros(2), atol=1e-4)


def test_nets_give_one_logit_per_class() -> None:
    assert mlp(4, [8, 8], 3)(torch.ones(5, 4)).shape == (5, 3)
    assert cnn(1, 10)(torch.ones(5, 1, 28, 28)).shape == (5, 10)


def test_a_text_said_twice_says_more_by_the_root_of_two() -> None:
    net = bag(vocabulary=10, classes=2, orders=(1,), buckets=0, dim=4, root=True).eval()

    nothing, once, twice = net(torch.tensor([[0, 0, 0, 0], [4, 5, 0, 0], [4, 5, 4, 5]]))

    assert torch.allclose(twice - nothing, 2**0.5 * (once - nothing), atol=1e-6)


def test_a_word_counts_in_the_mean_as_much_as_its_score_says() -> None:
    net = bag(vocabulary=10, classes=2, orders=(1,), buckets=0, dim=4, weighted=True).eval()

    equal, thrice = net(torch.tensor([[4, 5, 0, 0], [4, 5, 5, 5]]))
    assert net.score is not None
    with torch.no_grad():
        net.score.weight[5] = math.log(3)
    scored = net(torch.tensor([[4, 5, 0, 0]]))[0]

    assert torch.allclose(scored, thrice, atol=1e-6)
    assert not torch.allclose(scored, equal, atol=1e-3)


def test_the_digits_net_is_as_large_as_it_says() -> None:
    assert sum(p.numel() for p in cnn(1, 10).parameters()) == 75_706


def test_augmentation_repeats_with_its_generator_and_varies_without() -> None:
    x = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)

    first, again, other = (random_affine(x, x, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_augmentation_of_nothing_leaves_pictures_as_they_are() -> None:
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)

    y, _ = random_affine(x, x, torch.Generator(), degrees=0, scale=0, shear=0, translate=0)

    assert torch.allclose(y, x.float(), atol=1e-2)

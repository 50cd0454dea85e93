import torch

from training.data.input_layers import EncodeColumns, Standardize


def test_standardized_training_rows_have_mean_0_and_deviation_1() -> None:
    x_NF = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, -5.0, 7.0])

    y_NF = Standardize.fit(x_NF)(x_NF)

    assert torch.allclose(y_NF.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(y_NF.std(0, correction=0), torch.ones(3), atol=1e-4)


def test_images_are_standardized_per_channel() -> None:
    x = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)

    y = Standardize.fit(x)(x)

    assert y.shape == x.shape
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)


def test_a_constant_feature_stays_finite() -> None:
    assert torch.isfinite(Standardize.fit(torch.ones(4, 2))(torch.ones(4, 2))).all()


def test_a_missing_number_becomes_the_mean_and_a_category_is_one_hot() -> None:
    x_NF = torch.tensor([[1.0, 0.0], [3.0, 2.0], [2.0, 1.0], [torch.nan, torch.nan]])

    layer = EncodeColumns.fit(x_NF, [None, 3], impute_missing=True)
    y = layer(x_NF)

    assert layer.out_features == 4
    assert y[3].tolist() == [0, 0, 0, 0]
    assert y[:3, 1:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert torch.allclose(y[:3, 0].mean(), torch.tensor(0.0), atol=1e-6)


def test_a_table_may_have_categories_only() -> None:
    x_NF = torch.tensor([[0.0, 1.0], [1.0, 2.0]])

    layer = EncodeColumns.fit(x_NF, [2, 3], impute_missing=False)

    assert layer(x_NF).tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]


def test_padding_of_a_series_stays_nan() -> None:
    x = torch.randn(50, 6, 2) * 3 + 1
    x[:, 4:] = torch.nan

    y = Standardize.fit(x, feature_dim=2)(x)

    assert y[:, 4:].isnan().all()
    assert torch.allclose(y[:, :4].mean((0, 1)), torch.zeros(2), atol=1e-4)

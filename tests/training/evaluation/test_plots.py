import io
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch
from PIL import Image

from training.evaluation import plots


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, in order."""
    saved: list[Any] = []
    savefig = matplotlib.figure.Figure.savefig

    def record(figure: Any, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", record)
    return saved


def read_size(png: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return image.size


def test_the_history_is_one_point_per_epoch(figures: list[Any]) -> None:
    assert read_size(plots.plot_history([1, 2, 3], [0.9, 0.5, 0.4], "training loss")) == (600, 400)

    (line,) = figures[0].axes[0].lines
    assert line.get_xydata().tolist() == [[1, 0.9], [2, 0.5], [3, 0.4]]
    assert figures[0].axes[0].get_ylabel() == "training loss"


def test_rows_of_the_confusion_matrix_are_the_truth(figures: list[Any]) -> None:
    plots.plot_confusion_matrix(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1]), ("no", "yes"))

    (image,) = figures[0].axes[0].images
    assert np.allclose(np.asarray(image.get_array()) ** 2, [[1, 2], [0, 1]])
    assert {text.get_text(): text.get_position() for text in figures[0].axes[0].texts}["2"] == (1, 0)


def test_the_reliability_diagram_has_accuracy_over_score(figures: list[Any]) -> None:
    # Scores of 0.8, half of them right; at temperature 2, of 2/3.
    y_NC = torch.tensor([[np.log(4.0), 0.0]]).repeat(10, 1)

    plots.plot_reliability(torch.tensor([0, 1] * 5), y_NC, 2.0)

    _, trained, calibrated = figures[0].axes[0].lines
    assert np.allclose(trained.get_xydata(), [[0.8, 0.5]])
    assert np.allclose(calibrated.get_xydata(), [[2 / 3, 0.5]])


def test_predictions_are_points_beside_the_diagonal(figures: list[Any]) -> None:
    plots.plot_predictions(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0]), "price")

    axes = figures[0].axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 1], [5, 5]]
    assert axes.collections[0].get_offsets().tolist() == [[1, 2], [3, 5]]


def test_each_label_has_a_bar_of_its_value(figures: list[Any]) -> None:
    plots.plot_bars({"person": 0.5, "place": 0.75}, "F1")

    assert [bar.get_width() for bar in figures[0].axes[0].patches] == [0.5, 0.75]


def test_images_have_titles_or_the_boxes_with_a_score_above_one_half(figures: list[Any]) -> None:
    images = torch.zeros(8, 1, 5, 5, dtype=torch.uint8)
    boxes_BP6 = torch.tensor([[[1.0, 1, 3, 4, 0.9, 1], [0, 0, 1, 1, 0.1, 0]]]).repeat(8, 1, 1)

    plots.plot_images(images, [str(n) for n in range(8)])
    plots.plot_images(images, boxes_BP6=boxes_BP6, labels=("no", "yes"))

    assert [axes.get_title() for axes in figures[0].axes] == [str(n) for n in range(8)]
    for axes in figures[1].axes:
        (rectangle,) = axes.patches
        assert rectangle.get_bbox().extents.tolist() == [1, 1, 3, 4]
        assert [text.get_text() for text in axes.texts] == ["yes"]

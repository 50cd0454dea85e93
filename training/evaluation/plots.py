"""Plots of a run as PNG files for its model card: training history, errors, calibration, sample outputs.

Train walk: training.worker.report_plots -> [plots.py]
Functions of tensors and labels; knows nothing of tasks or workers.
"""
# Shapes: E epochs, N rows of the test split, B images, C classes, P detections of an image.

import io
from collections.abc import Sequence
from typing import Any

import matplotlib.patches
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

RELIABILITY_BINS = 10
IMAGES_PER_ROW = 6
MIN_SCORE = 0.5
MAX_EPOCHS_WITH_MARKERS = 40
MAX_CLASSES_WITH_COUNTS = 20


def plot_history(epochs: Sequence[float], values: Sequence[float], name: str) -> bytes:
    """Plot a quantity of each epoch, such as the training loss."""
    figure, axes = _new_figure()
    axes.plot(epochs, values, marker="." if len(epochs) < MAX_EPOCHS_WITH_MARKERS else "")
    axes.set(xlabel="epoch", ylabel=name)
    axes.grid(alpha=0.3)
    return _encode_png(figure)


def plot_confusion_matrix(target_N: Tensor, predicted_N: Tensor, labels: Sequence[str]) -> bytes:
    """Plot how often each true label (row) was predicted as each label (column)."""
    num_classes = len(labels)
    counts_CC = multiclass_confusion_matrix(predicted_N, target_N, num_classes).numpy()
    side = min(12.0, 3 + 0.5 * num_classes)
    figure, axes = _new_figure(side, side)
    # The square root keeps rare confusions visible beside the diagonal.
    axes.imshow(np.sqrt(counts_CC), cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", xticks=range(num_classes), yticks=range(num_classes))
    axes.set_xticklabels(labels, rotation=45, ha="right")
    axes.set_yticklabels(labels)
    if num_classes <= MAX_CLASSES_WITH_COUNTS:
        for row, column in np.ndindex(num_classes, num_classes):
            is_dark = counts_CC[row, column] > 0.25 * counts_CC.max()
            color = "w" if is_dark else "k"
            axes.text(column, row, str(counts_CC[row, column]), ha="center", va="center", color=color)
    return _encode_png(figure)


def plot_reliability(target_N: Tensor, y_NC: Tensor, temperature: float) -> bytes:
    """Plot accuracy against score with and without the temperature (DeGroot, Fienberg, 1983); ideal is the diagonal."""
    figure, axes = _new_figure(4.5, 4.5)
    axes.plot([0, 1], [0, 1], color="0.7")
    for divisor, name in ((1.0, "as trained"), (temperature, f"temperature {temperature:.2f}")):
        score_N, predicted_N = (y_NC / divisor).softmax(1).max(1)
        correct_N = (predicted_N == target_N).float()
        bin_N = (score_N * RELIABILITY_BINS).long().clamp(max=RELIABILITY_BINS - 1)
        bins = bin_N.unique().tolist()
        scores = [score_N[bin_N == index].mean().item() for index in bins]
        accuracies = [correct_N[bin_N == index].mean().item() for index in bins]
        axes.plot(scores, accuracies, marker="o", label=name)
    axes.set(xlabel="score", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    return _encode_png(figure)


def plot_predictions(target_N: Tensor, predicted_N: Tensor, name: str) -> bytes:
    """Plot predicted against true numbers; ideal is the diagonal."""
    figure, axes = _new_figure(4.5, 4.5)
    low, high = torch.cat([target_N, predicted_N]).aminmax()
    axes.plot([low.item(), high.item()], [low.item(), high.item()], color="0.7")
    axes.scatter(target_N.numpy(), predicted_N.numpy(), s=12)
    axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
    return _encode_png(figure)


def plot_bars(values: dict[str, float], name: str) -> bytes:
    """Plot a metric between 0 and 1 of each label."""
    figure, axes = _new_figure()
    axes.barh(list(values), list(values.values()))
    axes.set(xlabel=name, xlim=(0, 1))
    return _encode_png(figure)


def plot_images(
    images: Tensor, titles: Sequence[str] = (), boxes_BP6: Tensor | None = None, labels: Sequence[str] = ()
) -> bytes:
    """Plot images in rows of six, with a title each, or with their detected boxes.

    Args:
        images: shape (B, channels, height, width), as matplotlib takes them: uint8, or floats in 0 to 1.
        titles: one for each image, or none.
        boxes_BP6: x1, y1, x2, y2 in pixels, score, label index; those with a score of at most 0.5 are left out.
        labels: names of the boxes' labels.
    """
    rows = -(-len(images) // IMAGES_PER_ROW)
    figure = Figure(figsize=(9, 1.6 * rows), layout="constrained")
    for index, image in enumerate(images):
        axes = figure.add_subplot(rows, IMAGES_PER_ROW, index + 1)
        axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray")
        axes.set_axis_off()
        if titles:
            axes.set_title(titles[index], fontsize=8)
        for x1, y1, x2, y2, score, label in [] if boxes_BP6 is None else boxes_BP6[index].tolist():
            if score > MIN_SCORE:
                rectangle = matplotlib.patches.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="lime")
                axes.add_patch(rectangle)
                axes.text(x1, y1, labels[int(label)], color="lime", fontsize=8)
    return _encode_png(figure)


def _new_figure(width: float = 6, height: float = 4) -> tuple[Figure, Any]:
    # Without pyplot, which would choose a window system and keep every figure in memory.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _encode_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()

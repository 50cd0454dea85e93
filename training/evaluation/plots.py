"""Pictures of a run for its card: how it went, where it errs, what it does with rows it has never seen."""
# Shapes: N rows of the test part, K facts of a row, B sample rows, C classes.

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.patches
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from training.bundle.manifest import ModelInfo
from training.schema import BoxOutput, ClassOutput, ImageInput, ImageOutput
from training.tasks.classification import split_targets_logits

if TYPE_CHECKING:
    from training.worker.step import Worker

mpl.use("Agg")

SAMPLES = 24
BINS = 10


def draw_plots(worker: Worker, net: nn.Module, about: ModelInfo, test_NK: Tensor) -> dict[str, bytes]:
    """Draw all pictures that fit the task; PNG files by name."""
    found = plot_history(worker.progress.history, worker.task.metric)
    answer = about.output_schema
    if isinstance(answer, ClassOutput):
        target_N, y_NC = split_targets_logits(test_NK)
        found["confusion.png"] = plot_confusion(target_N, y_NC.argmax(1), answer.labels)
        found["reliability.png"] = plot_reliability(target_N, y_NC, answer.temperature)
    elif answer.kind == "number":
        found["predictions.png"] = plot_predictions(test_NK[:, 0], test_NK[:, 1], answer.name)
    elif about.per_class_metrics:
        found["labels.png"] = plot_bars(
            {label: scores["f1"] for label, scores in about.per_class_metrics.items()}, "F1"
        )
    if isinstance(about.input_schema, ImageInput):
        rows = worker.splits["test"].select(slice(0, SAMPLES))
        with torch.inference_mode():
            output = net(rows.inputs)
        found |= _pictures(rows.inputs, output, answer, net)
    return found


def plot_history(epochs: list[dict[str, float]], metric: str) -> dict[str, bytes]:
    """Loss and validation score of each epoch."""
    found = {}
    for name, key, title in (
        ("loss.png", "loss", "training loss"),
        ("metric.png", f"validation_{metric}", f"validation {metric}"),
    ):
        figure, axes = _figure()
        axes.plot([e["epoch"] for e in epochs], [e[key] for e in epochs], marker="." if len(epochs) < 40 else "")
        axes.set(xlabel="epoch", ylabel=title)
        axes.grid(alpha=0.3)
        found[name] = _png(figure)
    return found


def plot_confusion(target_N: Tensor, said_N: Tensor, labels: tuple[str, ...]) -> bytes:
    """How often each label was taken for each; rows are the truth."""
    size = len(labels)
    counts = torch.bincount(target_N * size + said_N, minlength=size * size).reshape(size, size).numpy()
    side = min(12.0, 3 + 0.5 * size)
    figure, axes = _figure(side, side)
    axes.imshow(np.sqrt(counts), cmap="Blues")
    axes.set(xlabel="said", ylabel="true", xticks=range(size), yticks=range(size))
    axes.set_xticklabels(labels, rotation=45, ha="right")
    axes.set_yticklabels(labels)
    if size <= 20:
        for row, column in np.ndindex(size, size):
            dark = counts[row, column] > 0.25 * counts.max()
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color="w" if dark else "k")
    return _png(figure)


def plot_reliability(target_N: Tensor, y_NC: Tensor, temperature: float) -> bytes:
    """How often a score is right, with and without temperature; the diagonal is perfect (DeGroot, Fienberg, 1983)."""
    figure, axes = _figure(4.5, 4.5)
    axes.plot([0, 1], [0, 1], color="0.7")
    for t, name in ((1.0, "as trained"), (temperature, f"temperature {temperature:.2f}")):
        score_N, said_N = (y_NC / t).softmax(1).max(1)
        right_N = (said_N == target_N).float()
        bins = (score_N * BINS).long().clamp(max=BINS - 1)
        filled = [b for b in range(BINS) if (bins == b).any()]
        x = [score_N[bins == b].mean().item() for b in filled]
        y = [right_N[bins == b].mean().item() for b in filled]
        axes.plot(x, y, marker="o", label=name)
    axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    return _png(figure)


def plot_predictions(target_N: Tensor, said_N: Tensor, name: str) -> bytes:
    """What was said against what is true."""
    figure, axes = _figure(4.5, 4.5)
    low, high = float(min(target_N.min(), said_N.min())), float(max(target_N.max(), said_N.max()))
    axes.plot([low, high], [low, high], color="0.7")
    axes.scatter(target_N.numpy(), said_N.numpy(), s=12)
    axes.set(xlabel=f"true {name}", ylabel=f"said {name}")
    return _png(figure)


def plot_bars(values: dict[str, float], title: str) -> bytes:
    """One number for each label."""
    figure, axes = _figure()
    axes.barh(list(values), list(values.values()))
    axes.set(xlabel=title, xlim=(0, 1))
    return _png(figure)


def _pictures(inputs: Tensor, output: Any, answer: Any, net: nn.Module) -> dict[str, bytes]:
    if isinstance(answer, ClassOutput):
        said = output.softmax(1).max(1)
        titles = [f"{answer.labels[i]} {s:.2f}" for s, i in zip(said[0].tolist(), said[1].tolist(), strict=True)]
        return {"samples.png": plot_image_grid(inputs, titles)}
    if isinstance(answer, BoxOutput):
        return {"boxes.png": plot_image_grid(inputs, [], output, answer.labels)}
    if isinstance(answer, ImageOutput):
        half = inputs[: SAMPLES // 2]
        pairs = torch.stack([half.float() / 255, output[0][: len(half)]], 1).flatten(0, 1)
        noise = torch.randn(SAMPLES, answer.latent_size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            drawn = net.decode(noise)  # type: ignore[operator]
        titles = ["input", "again"] * len(half)
        return {"reconstructions.png": plot_image_grid(pairs, titles), "samples.png": plot_image_grid(drawn, [])}
    return {}


def plot_image_grid(
    pictures: Tensor, titles: list[str], boxes: Tensor | None = None, labels: tuple[str, ...] = ()
) -> bytes:
    """Pictures (B, K, H, W) in rows of six, with a title each, or with the boxes of more than one half."""
    rows = -(-len(pictures) // 6)
    figure = Figure(figsize=(9, 1.6 * rows), layout="constrained")
    for index, picture in enumerate(pictures):
        axes = figure.add_subplot(rows, 6, index + 1)
        axes.imshow(picture.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray")
        axes.set_axis_off()
        if titles:
            axes.set_title(titles[index], fontsize=8)
        for x1, y1, x2, y2, score, label in [] if boxes is None else boxes[index].tolist():
            if score > 0.5:
                axes.add_patch(mpl.patches.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="lime"))
                axes.text(x1, y1, labels[int(label)], color="lime", fontsize=8)
    return _png(figure)


def _figure(width: float = 6, height: float = 4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()

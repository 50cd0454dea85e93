"""Plots of a finished run: chooses those that fit the task and collects their data from a worker.

Train walk: finalize.py -> [report_plots.py] -> training.evaluation.plots
"""
# Shapes: N rows of the test split, K eval outputs of a row, B sample images.

from typing import Any

import torch
from torch import Tensor, nn

from training.bundle.manifest import ModelInfo
from training.evaluation import plots
from training.schema import BoxOutput, ClassOutput, ImageInput, ImageOutput, NumberOutput, OutputSchema
from training.tasks.classification import split_targets_logits
from training.worker.training_worker import Worker

NUM_SAMPLES = 24


def draw_plots(worker: Worker, net: nn.Module, info: ModelInfo, eval_outputs_NK: Tensor) -> dict[str, bytes]:
    """Draw all plots that fit the task.

    Args:
        worker: whose run has ended.
        net: its published net, on the CPU.
        info: its metrics and fitted output schema.
        eval_outputs_NK: of the test split.

    Returns:
        PNG files by name.
    """
    images = _plot_history(worker.progress.history, worker.task.primary_metric)
    images |= _plot_errors(info, eval_outputs_NK)
    if isinstance(info.input_schema, ImageInput):
        images |= _plot_samples(net, worker.splits["test"].select(slice(0, NUM_SAMPLES)).inputs, info.output_schema)
    return images


def _plot_history(history: list[dict[str, float]], metric: str) -> dict[str, bytes]:
    epochs = [epoch["epoch"] for epoch in history]
    return {
        "loss.png": plots.plot_history(epochs, [epoch["loss"] for epoch in history], "training loss"),
        "metric.png": plots.plot_history(
            epochs, [epoch[f"validation_{metric}"] for epoch in history], f"validation {metric}"
        ),
    }


def _plot_errors(info: ModelInfo, eval_outputs_NK: Tensor) -> dict[str, bytes]:
    output_schema = info.output_schema
    if isinstance(output_schema, ClassOutput):
        target_N, y_NC = split_targets_logits(eval_outputs_NK)
        return {
            "confusion_matrix.png": plots.plot_confusion_matrix(target_N, y_NC.argmax(1), output_schema.labels),
            "reliability.png": plots.plot_reliability(target_N, y_NC, output_schema.temperature),
        }
    if isinstance(output_schema, NumberOutput):
        target_N, predicted_N = eval_outputs_NK.unbind(1)
        return {"predictions.png": plots.plot_predictions(target_N, predicted_N, output_schema.name)}
    if info.per_class_metrics:
        f1 = {label: metrics["f1"] for label, metrics in info.per_class_metrics.items()}
        return {"per_class_f1.png": plots.plot_bars(f1, "F1")}
    return {}


def _plot_samples(net: nn.Module, inputs: Tensor, output_schema: OutputSchema) -> dict[str, bytes]:
    with torch.inference_mode():
        output: Any = net(inputs)
    if isinstance(output_schema, ClassOutput):
        score_B, label_B = (output / output_schema.temperature).softmax(1).max(1)
        titles = [
            f"{output_schema.labels[label]} {score:.2f}"
            for score, label in zip(score_B.tolist(), label_B.tolist(), strict=True)
        ]
        return {"samples.png": plots.plot_images(inputs, titles)}
    if isinstance(output_schema, BoxOutput):
        return {"boxes.png": plots.plot_images(inputs, boxes_BP6=output, labels=output_schema.labels)}
    if isinstance(output_schema, ImageOutput):
        originals = inputs[: NUM_SAMPLES // 2]
        pairs = torch.stack([originals.float() / 255, output[0][: len(originals)]], 1).flatten(0, 1)
        z_BZ = torch.randn(NUM_SAMPLES, output_schema.latent_size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            generated = net.decode(z_BZ)  # type: ignore[operator]
        return {
            "reconstructions.png": plots.plot_images(pairs, ["input", "reconstruction"] * len(originals)),
            "samples.png": plots.plot_images(generated),
        }
    return {}

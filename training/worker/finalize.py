"""The end of a run: the best weights are scored on the held-out rows, and become a bundle.

Train walk: loop.py -> [conclude.py] -> training.bundle.bundle -> training.registry.model_registry
"""
# Shapes: N rows of a part, K facts of a row.

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
from torch import Tensor

from training.bundle.manifest import Calibration, DatasetCard, Interval, ModelInfo
from training.bundle.save import save_bundle
from training.data.files.scan import ScannedDataset
from training.data.split import count_leaks
from training.evaluation import confidence
from training.schema import ClassOutput, OutputSchema
from training.tasks.classification import split_targets_logits
from training.tasks.object_detection import ObjectDetection
from training.worker import checkpoint
from training.worker.energy import EnergyMeter
from training.worker.step import Worker


def finalize(worker: Worker, config: Mapping[str, Any], energy: EnergyMeter) -> None:
    """Score, write the bundle, and report both; the last thing a worker does."""
    worker.load_best()
    validation, test = worker.compute_eval_outputs("validation"), worker.compute_eval_outputs("test")
    used = energy.sum_over_machines()
    scores = worker.task.metrics(test)
    progress = worker.progress
    last = progress.history[-1] if progress.history else {}
    metrics: dict[str, Any] = last | add_prefix("test", scores) | {"best_epoch": progress.best_epoch}
    metrics |= checkpoint.ordering_metric(progress.best_score, higher=worker.task.higher_is_better)
    taken = checkpoint.take_snapshot(worker.state)
    if worker.rank:
        ray.train.report(metrics)
        return
    if worker.timer.enabled:
        metrics |= {f"profile_{name}_s": seconds for name, seconds in worker.timer.seconds.items()}
        metrics |= {"profile_steps": worker.timer.steps, "profile_allreduce_bytes": worker.timer.all_reduce_bytes}
    with tempfile.TemporaryDirectory(prefix="conclusion-", dir=Path.cwd()) as name:
        folder = Path(name)
        checkpoint.write_snapshot(folder, taken)
        about = _build_model_info(worker, config, scores, (validation, test)).model_copy(update={"energy": used})
        _write_bundle(folder / "bundle", worker, about, test)
        checkpoint.report_final(metrics, folder, run=config["run"])


def add_prefix(prefix: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Scores under longer names."""
    return {f"{prefix}_{name}": value for name, value in scores.items()}


def _build_model_info(
    worker: Worker, config: Mapping[str, Any], scores: dict[str, float], facts: tuple[Tensor, Tensor]
) -> ModelInfo:
    recipe, dataset, task, progress = worker.recipe, worker.dataset, worker.task, worker.progress
    answer, calibration = _calibrate(task.output_schema(), *facts)
    # Matching boxes again and again takes its time.
    draws = 100 if isinstance(task, ObjectDetection) else confidence.BOOTSTRAP_SAMPLES
    low, high = confidence.bootstrap_interval(
        facts[1], lambda drawn: task.validation_metrics(drawn)[task.metric], draws
    )
    return ModelInfo(
        name=recipe.name,
        task=recipe.task,
        input_schema=task.preprocessing.input_schema,
        output_schema=answer,
        summary=recipe.summary,
        intended_use=recipe.intended_use,
        metrics=add_prefix("test", scores),
        primary_metric=f"test_{task.metric}",
        intervals={f"test_{task.metric}": Interval(low=low, high=high)},
        per_class_metrics=task.per_class_metrics(facts[1]),
        calibration=calibration,
        dataset=DatasetCard(
            source=dataset.source,
            license=dataset.license,
            fingerprint=dataset.fingerprint(),
            rows=worker.feed.split_sizes(),
            split=_describe_split(worker),
            dropped_rows=dataset.dropped_rows,
            leaked_rows=count_leaks(dataset, worker.split_index),
        ),
        recipe=recipe.model_dump(mode="json"),
        training={
            "run": config["run"],
            "workers": worker.world,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "steps": progress.global_step,
            "seconds": round(progress.seconds, 1),
            "stopped_by": progress.stop_reason,
        },
        git_commit=config["git_commit"],
        tolerance=recipe.tolerance,
    )


def _describe_split(worker: Worker) -> str:
    data_, dataset = worker.recipe.data, worker.dataset
    if isinstance(dataset, ScannedDataset):
        return dataset.split
    if dataset.test_index is not None:
        return f"test rows named by the data set; validation {data_.validation_fraction:.0%} of the rest, at random"
    how = "stratified by class" if isinstance(worker.task.output_schema(), ClassOutput) else "at random"
    return (
        f"{how}, seed {data_.seed}: test {data_.test_fraction:.0%}, validation {data_.validation_fraction:.0%} "
        "of the rest"
    )


def _calibrate(answer: OutputSchema, validation: Tensor, test: Tensor) -> tuple[OutputSchema, Calibration | None]:
    """Fit the temperature of a classifier's scores on the validation rows; say on the test rows what it brings."""
    if not isinstance(answer, ClassOutput):
        return answer, None
    target_N, y_NC = split_targets_logits(validation)
    temperature = confidence.fit_temperature(y_NC, target_N)
    target_N, y_NC = split_targets_logits(test)
    before, after = (confidence.expected_calibration_error(y_NC, target_N, t) for t in (1.0, temperature))
    return answer.model_copy(update={"temperature": temperature}), Calibration(error_before=before, error_after=after)


def _write_bundle(folder: Path, worker: Worker, about: ModelInfo, test: Tensor) -> None:
    # Matplotlib, which takes a second to import: not before the first step.
    from training.evaluation import plots

    net, task = worker.build_published_net(), worker.task
    rows = worker.splits["test"].select(slice(0, plots.SAMPLES))
    decode = getattr(net, "decode", None)
    save_bundle(
        folder,
        net,
        inputs=rows.inputs[:2],
        info=about,
        outputs=task.outputs,
        tokenizer=task.preprocessing.tokenizer,
        example=worker.dataset.inputs[int(worker.split_index["test"][0])],
        decoder=decode if about.output_schema.kind == "image" else None,
        images=plots.draw_plots(worker, net, about, test),
    )

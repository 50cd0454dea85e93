"""The end of a run: the best weights are evaluated on the held-out splits and written as a bundle.

Train walk: loop.py -> [finalize.py] -> training.evaluation.confidence, training.bundle.save
Another ending (a trial of a search, which only reports its score) is a `Finalize` that goes to `train_worker`. Knows
nothing of the registry: the driver publishes the bundle from the last checkpoint.
"""
# Shapes: N rows of a split, K eval outputs of a row, C classes.

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train
from torch import Tensor

from training.bundle.manifest import Calibration, DatasetCard, EnergyCard, Interval, ModelInfo
from training.bundle.save import save_bundle
from training.data.files.scan import ScannedDataset
from training.data.split import count_leaks
from training.evaluation import confidence
from training.schema import ClassOutput, OutputSchema
from training.tasks.classification import split_targets_logits
from training.worker import checkpoint
from training.worker.energy import EnergyMeter
from training.worker.ray_internals import CheckpointStorage
from training.worker.training_worker import Worker

BUNDLE_FOLDER = "bundle"

Finalize = Callable[[Worker, Mapping[str, Any], EnergyMeter], None]
"""Called on every worker when training is over, with the config of `train_worker`; reports what the run leaves."""


def finalize_run(worker: Worker, config: Mapping[str, Any], energy: EnergyMeter) -> None:
    """Evaluate the best weights, write their bundle and a last checkpoint, and report them to Ray Train; collective."""
    worker.load_best()
    validation_NK, test_NK = worker.compute_eval_outputs("validation"), worker.compute_eval_outputs("test")
    energy_card = energy.sum_over_machines()
    snapshot = checkpoint.take_snapshot(worker.state)
    if worker.rank:
        # Ray Train keeps rank 0's metrics only, and waits until every rank has reported.
        ray.train.report({})
        return
    scores = worker.task.metrics(test_NK)
    metrics = _collect_metrics(worker, scores)
    with tempfile.TemporaryDirectory(prefix="final-", dir=Path.cwd()) as name:
        folder = Path(name)
        checkpoint.write_snapshot(folder, snapshot)
        info = _build_model_info(worker, config, scores, validation_NK, test_NK, energy_card)
        _write_bundle(folder / BUNDLE_FOLDER, worker, info, test_NK)
        checkpoint.report_final(metrics, folder, CheckpointStorage(), run=config["run"])


def prefix_keys(split: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Name scores after their split, as `test_accuracy`."""
    return {f"{split}_{name}": value for name, value in scores.items()}


def _collect_metrics(worker: Worker, scores: dict[str, float]) -> dict[str, Any]:
    progress, timer = worker.progress, worker.timer
    last_epoch = progress.history[-1] if progress.history else {}
    metrics: dict[str, Any] = last_epoch | prefix_keys("test", scores) | {"best_epoch": progress.best_epoch}
    metrics |= checkpoint.ordering_metric(progress.best_score, higher_is_better=worker.task.higher_is_better)
    if timer.enabled:
        metrics |= {f"profile_{phase}_s": seconds for phase, seconds in timer.seconds.items()}
        metrics |= {"profile_steps": timer.steps, "profile_allreduce_bytes": timer.all_reduce_bytes}
    return metrics


def _build_model_info(
    worker: Worker,
    config: Mapping[str, Any],
    scores: dict[str, float],
    validation_NK: Tensor,
    test_NK: Tensor,
    energy_card: EnergyCard | None,
) -> ModelInfo:
    recipe, dataset, task, progress = worker.recipe, worker.dataset, worker.task, worker.progress
    output_schema, calibration = _calibrate(task.output_schema(), validation_NK, test_NK)
    low, high = confidence.bootstrap_interval(task.bootstrap_metric(test_NK), len(test_NK), task.bootstrap_samples)
    primary_metric = f"test_{task.primary_metric}"
    return ModelInfo(
        name=recipe.name,
        task=recipe.task,
        input_schema=task.preprocessing.input_schema,
        output_schema=output_schema,
        summary=recipe.summary,
        intended_use=recipe.intended_use,
        metrics=prefix_keys("test", scores),
        primary_metric=primary_metric,
        intervals={primary_metric: Interval(low=low, high=high)},
        per_class_metrics=task.per_class_metrics(test_NK),
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
        energy=energy_card,
        recipe=recipe.model_dump(mode="json"),
        training={
            "run": config["run"],
            "workers": worker.world_size,
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
    """Describe how rows were split, for the model card."""
    data, dataset = worker.recipe.data, worker.dataset
    if isinstance(dataset, ScannedDataset):
        return dataset.split_description
    if dataset.test_index is not None:
        return f"test rows chosen by the data set; validation {data.validation_fraction:.0%} of the rest, at random"
    method = "stratified by class" if isinstance(worker.task.output_schema(), ClassOutput) else "at random"
    return (
        f"{method}, seed {data.seed}: test {data.test_fraction:.0%}, validation {data.validation_fraction:.0%} "
        "of the rest"
    )


def _calibrate(
    output_schema: OutputSchema, validation_NK: Tensor, test_NK: Tensor
) -> tuple[OutputSchema, Calibration | None]:
    """Fit the temperature of a classifier's scores on the validation split, measure its effect on the test split."""
    if not isinstance(output_schema, ClassOutput):
        return output_schema, None
    target_N, y_NC = split_targets_logits(validation_NK)
    temperature = confidence.fit_temperature(y_NC, target_N)
    target_N, y_NC = split_targets_logits(test_NK)
    before, after = (confidence.expected_calibration_error(y_NC, target_N, t) for t in (1.0, temperature))
    calibrated = output_schema.model_copy(update={"temperature": temperature})
    return calibrated, Calibration(error_before=before, error_after=after)


def _write_bundle(folder: Path, worker: Worker, info: ModelInfo, test_NK: Tensor) -> None:
    # Imported late: matplotlib takes a second, that no first training step should wait for.
    from training.worker import report_plots

    net, task = worker.build_published_net(), worker.task
    rows = worker.splits["test"].select(slice(0, report_plots.NUM_SAMPLES))
    save_bundle(
        folder,
        net,
        inputs=rows.inputs[:2],
        info=info,
        outputs=task.output_names,
        tokenizer=task.preprocessing.tokenizer,
        example=worker.dataset.inputs[int(worker.split_index["test"][0])],
        decoder=getattr(net, "decode", None) if info.output_schema.kind == "image" else None,
        images=report_plots.draw_plots(worker, net, info, test_NK),
    )

"""The end of a run: the best weights are scored on the held-out rows, and become a bundle.

Train walk: loop.py -> [conclude.py] -> training.bundle -> training.registry
"""
# Shapes: N rows of a part, K facts of a row.

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
from torch import Tensor

from training import bundle, data
from training.bundle import Calibration, Interval
from training.evaluation import confidence
from training.evaluation.energy import Energy
from training.files.survey import Surveyed
from training.recovery import checkpoint
from training.tasks.classification import target_and_logits
from training.tasks.detection import Detection
from training.words import Answer, Classes
from training.worker import Worker


def conclude(worker: Worker, config: Mapping[str, Any], energy: Energy) -> None:
    """Score, write the bundle, and report both; the last thing a worker does."""
    worker.load_best()
    validation, test = worker.facts("validation"), worker.facts("test")
    used = energy.over_all_machines()
    scores = worker.task.full_scores(test)
    progress = worker.progress
    last = progress.history[-1] if progress.history else {}
    metrics: dict[str, Any] = last | prefixed("test", scores) | {"best_epoch": progress.best_epoch}
    metrics |= checkpoint.order(progress.best_score, higher=worker.task.higher)
    taken = checkpoint.snapshot(worker.state)
    if worker.rank:
        ray.train.report(metrics)
        return
    if worker.phases.on:
        metrics |= {f"profile_{name}_s": seconds for name, seconds in worker.phases.seconds.items()}
        metrics |= {"profile_steps": worker.phases.steps, "profile_allreduce_bytes": worker.phases.bytes}
    with tempfile.TemporaryDirectory(prefix="conclusion-", dir=Path.cwd()) as name:
        folder = Path(name)
        checkpoint.write(folder, taken)
        about = _about(worker, config, scores, (validation, test)).model_copy(update={"energy": used})
        _save(folder / "bundle", worker, about, test)
        checkpoint.report_last(metrics, folder, run=config["run"])


def prefixed(prefix: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Scores under longer names."""
    return {f"{prefix}_{name}": value for name, value in scores.items()}


def _about(
    worker: Worker, config: Mapping[str, Any], scores: dict[str, float], facts: tuple[Tensor, Tensor]
) -> bundle.About:
    recipe, dataset, task, progress = worker.recipe, worker.dataset, worker.task, worker.progress
    answer, calibration = _calibrated(task.answer(), *facts)
    # Matching boxes again and again takes its time.
    draws = 100 if isinstance(task, Detection) else confidence.DRAWS
    low, high = confidence.interval(facts[1], lambda drawn: task.scores(drawn)[task.metric], draws)
    return bundle.About(
        name=recipe.name,
        task=recipe.task,
        words=task.fitted.words,
        answer=answer,
        summary=recipe.summary,
        use=recipe.use,
        metrics=prefixed("test", scores),
        headline=f"test_{task.metric}",
        intervals={f"test_{task.metric}": Interval(low=low, high=high)},
        by_class=task.by_class(facts[1]),
        calibration=calibration,
        dataset=bundle.DatasetCard(
            source=dataset.source,
            licence=dataset.licence,
            fingerprint=dataset.fingerprint(),
            rows=worker.feed.sizes(),
            split=_split(worker),
            cleaned=dataset.cleaned,
            leaks=data.leaks(dataset, worker.index),
        ),
        recipe=recipe.model_dump(mode="json"),
        training={
            "run": config["run"],
            "workers": worker.world,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "steps": progress.steps,
            "seconds": round(progress.seconds, 1),
            "stopped_by": progress.stopped,
        },
        git_commit=config["git_commit"],
        tolerance=recipe.tolerance,
    )


def _split(worker: Worker) -> str:
    data_, dataset = worker.recipe.data, worker.dataset
    if isinstance(dataset, Surveyed):
        return dataset.split
    if dataset.held_out is not None:
        return f"test rows named by the data set; validation {data_.validation_fraction:.0%} of the rest, at random"
    how = "stratified by class" if isinstance(worker.task.answer(), Classes) else "at random"
    return (
        f"{how}, seed {data_.seed}: test {data_.test_fraction:.0%}, validation {data_.validation_fraction:.0%} "
        "of the rest"
    )


def _calibrated(answer: Answer, validation: Tensor, test: Tensor) -> tuple[Answer, Calibration | None]:
    """Fit the temperature of a classifier's scores on the validation rows; say on the test rows what it brings."""
    if not isinstance(answer, Classes):
        return answer, None
    target_N, y_NC = target_and_logits(validation)
    temperature = confidence.fit_temperature(y_NC, target_N)
    target_N, y_NC = target_and_logits(test)
    before, after = (confidence.calibration_error(y_NC, target_N, t) for t in (1.0, temperature))
    return answer.model_copy(update={"temperature": temperature}), Calibration(error_before=before, error_after=after)


def _save(folder: Path, worker: Worker, about: bundle.About, test: Tensor) -> None:
    # Matplotlib, which takes a second to import: not before the first step.
    from training.evaluation import plots

    net, task = worker.published(), worker.task
    rows = worker.parts["test"].select(slice(0, plots.SAMPLES))
    decode = getattr(net, "decode", None)
    bundle.save(
        folder,
        net,
        inputs=rows.inputs[:2],
        about=about,
        outputs=task.outputs,
        tokeniser=task.fitted.tokeniser,
        example=worker.dataset.inputs[int(worker.index["test"][0])],
        decoder=decode if about.answer.kind == "picture" else None,
        pictures=plots.draw(worker, net, about, test),
    )

"""Training: from a recipe to a published model.

Packages: recipe (what is trained), data (rows and preprocessing), tasks (losses and metrics), zoo (ready data sets,
nets and recipes), worker (the training loop), evaluation, bundle (the folder that a replica loads), registry (runs,
models, versions), run (the driver).
A run: training.recipe.load -> training.run.driver -> training.worker.loop -> training.worker.finalize ->
training.bundle.save, then training.run.driver -> training.registry.model_registry.

A walk in a header is the path of a run, or of a deployment, through the files, in the order in which they act.

The names below are those that a recipe file or a script needs. Each is imported on first use, so that `import training`
imports neither torch nor Ray.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.bundle.load import load_bundle
    from training.bundle.manifest import ModelInfo
    from training.bundle.save import save_bundle
    from training.bundle.verify import verify_bundle
    from training.data.dataset import Dataset
    from training.errors import ServiceError, UserError
    from training.recipe.spec import (
        Augmentation,
        CheckpointPolicy,
        Cleaning,
        Data,
        Files,
        Loss,
        LrSchedule,
        Net,
        Optimizer,
        Recipe,
        StopRule,
        TokenizerConfig,
    )
    from training.registry.model_registry import Registry
    from training.run.driver import train
    from training.schema import (
        BoxOutput,
        ClassOutput,
        Feature,
        ImageInput,
        ImageOutput,
        NumberOutput,
        SeriesInput,
        SpanOutput,
        TableInput,
        TextInput,
        TextOutput,
    )

_MODULES = {
    "training.bundle.load": ("load_bundle",),
    "training.bundle.manifest": ("ModelInfo",),
    "training.bundle.save": ("save_bundle",),
    "training.bundle.verify": ("verify_bundle",),
    "training.data.dataset": ("Dataset",),
    "training.errors": ("ServiceError", "UserError"),
    "training.recipe.spec": (
        "Augmentation",
        "CheckpointPolicy",
        "Cleaning",
        "Data",
        "Files",
        "Loss",
        "LrSchedule",
        "Net",
        "Optimizer",
        "Recipe",
        "StopRule",
        "TokenizerConfig",
    ),
    "training.registry.model_registry": ("Registry",),
    "training.run.driver": ("train",),
    "training.schema": (
        "BoxOutput",
        "ClassOutput",
        "Feature",
        "ImageInput",
        "ImageOutput",
        "NumberOutput",
        "SeriesInput",
        "SpanOutput",
        "TableInput",
        "TextInput",
        "TextOutput",
    ),
}
_MODULE_OF_NAME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Augmentation",
    "BoxOutput",
    "CheckpointPolicy",
    "ClassOutput",
    "Cleaning",
    "Data",
    "Dataset",
    "Feature",
    "Files",
    "ImageInput",
    "ImageOutput",
    "Loss",
    "LrSchedule",
    "ModelInfo",
    "Net",
    "NumberOutput",
    "Optimizer",
    "Recipe",
    "Registry",
    "SeriesInput",
    "ServiceError",
    "SpanOutput",
    "StopRule",
    "TableInput",
    "TextInput",
    "TextOutput",
    "TokenizerConfig",
    "UserError",
    "load_bundle",
    "save_bundle",
    "train",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        module = sys.modules[__name__]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=module)
    value = getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    globals()[name] = value  # __getattr__ is not called for this name again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Renamed: Python names of earlier versions, so that an error about an old name gives the new one.

Keys of a recipe are not here: each Pydantic class lists its own as `renamed_keys`.
"""

import re
from collections.abc import Collection, Mapping
from types import ModuleType

RENAMED_MODULES: Mapping[str, str] = {
    "training.words": "training.schema",
    "training.closed": "training.schema",
    "training.nets": "training.zoo.nets",
    "training.nets.bag": "training.zoo.nets.bag_of_ngrams",
    "training.datasets": "training.zoo.datasets",
    "training.recipes": "training.zoo.recipes",
    "training.augment": "training.data.augmentation",
    "training.bio": "training.data.bio_tags",
    "training.pictures": "training.data.images",
    "training.prepare": "training.data.preprocessing",
    "training.tokens": "training.data.tokenizer",
    "training.files": "training.data.files",
    "training.options": "training.run.options",
    "training.runs": "training.registry.runs",
    "training.store": "training.registry.storage",
}

RENAMED_NAMES: Mapping[str, str] = {
    "training.recipe.Recipe": "training.Recipe",
    "training.recipe.Data": "training.Data",
    "training.recipe.Files": "training.Files",
    "training.recipe.Net": "training.Net",
    "training.recipe.Loss": "training.Loss",
    "training.recipe.Clean": "training.Cleaning",
    "training.recipe.Tokens": "training.TokenizerConfig",
    "training.recipe.Augment": "training.Augmentation",
    "training.recipe.Optimiser": "training.Optimizer",
    "training.recipe.Schedule": "training.LrSchedule",
    "training.recipe.Stop": "training.StopRule",
    "training.recipe.Checkpoints": "training.CheckpointPolicy",
    "training.recipe.load_recipe": "training.recipe.load.load_recipe",
    "training.recipe.load_path": "training.recipe.load.import_path",
    "training.recipe.override": "training.recipe.load.override_recipe",
    "training.data.Dataset": "training.Dataset",
    "training.data.load": "training.data.dataset.load_dataset",
    "training.words.TableWords": "training.TableInput",
    "training.words.ImageWords": "training.ImageInput",
    "training.words.TextWords": "training.TextInput",
    "training.words.SeriesWords": "training.SeriesInput",
    "training.words.Classes": "training.ClassOutput",
    "training.words.Number": "training.NumberOutput",
    "training.words.Spans": "training.SpanOutput",
    "training.words.Continuation": "training.TextOutput",
    "training.words.Boxes": "training.BoxOutput",
    "training.words.Picture": "training.ImageOutput",
    "training.closed.Closed": "training.schema.StrictModel",
    "training.bundle.About": "training.ModelInfo",
    "training.bundle.DatasetCard": "training.bundle.manifest.DatasetCard",
    "training.registry.Registry": "training.Registry",
    "training.run.train": "training.train",
    "training.run.Outcome": "training.run.driver.RunResult",
    "training.options.Options": "training.run.options.RunOptions",
    "training.errors.Mistake": "training.UserError",
    "training.errors.Failure": "training.ServiceError",
    "training.tokens.Tokeniser": "training.data.tokenizer.Tokenizer",
    "training.nets.bag.bag": "training.zoo.nets.bag_of_ngrams.bag_of_ngrams",
    "training.nets.recurrent.recurrent_classifier": "training.zoo.nets.recurrent.rnn_text_classifier",
    "training.nets.recurrent.sequence_classifier": "training.zoo.nets.recurrent.rnn_series_classifier",
}

RENAMED_PARAMETERS: Mapping[str, str] = {
    "about": "info",
    "held_out": "test_index",
    "licence": "license",
    "pictures": "images",
    "cleaned": "dropped_rows",
    "tokeniser": "tokenizer",
    "vocabulary": "vocab_size",
    "words": "input_schema",
}

RENAMED_SIZES: Mapping[str, str] = {
    "classes": "num_classes",
    "features": "num_features",
    "vocabulary": "vocab_size",
}
"""Parameters of a net that are filled in with a size of the data."""

RENAMED_NET_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    **{old: (new,) for old, new in RENAMED_SIZES.items()},
    "blocks": ("blocks_per_stage",),
    "buckets": ("num_buckets",),
    "cell": ("cell_type",),
    "channels": ("in_channels",),
    "context": ("context_length",),
    "dim": ("embedding_dim",),
    "dropout": ("ngram_dropout",),
    "embedding": ("embedding_dim",),
    "heads": ("num_heads",),
    "hidden": ("hidden_sizes", "hidden_size"),
    "highway": ("highway_window",),
    "latent": ("latent_size",),
    "layers": ("num_layers",),
    "orders": ("ngram_orders",),
    "pair_buckets": ("num_bigram_buckets",),
    "pair_dim": ("bigram_embedding_dim",),
    "pair_dropout": ("bigram_dropout",),
    "peaks": ("max_detections",),
    "root": ("combiner",),
    "tied": ("tie_weights",),
    "unknown": ("word_dropout",),
    "weighted": ("attention_pooling",),
    "width": ("hidden_size", "base_channels"),
}
"""Parameters of the zoo's nets; where nets differ, each new name."""

_CANNOT_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
_UNEXPECTED_ARGUMENT = re.compile(r"got an unexpected keyword argument '(\w+)'")


def renamed_hint(error: BaseException) -> str:
    """Find the new name of what an error says is missing.

    Args:
        error: what importing or running a user's Python code raised.

    Returns:
        `; 'old' is called 'new' now`, to append to a message; empty if the missing name is not a renamed one.
    """
    if isinstance(error, ModuleNotFoundError):
        return _hint(error.name or "", _new_module(error.name or ""))
    if isinstance(error, ImportError):
        match = _CANNOT_IMPORT.search(str(error))
        return _hint(match[1], _new_name(match[2], match[1])) if match else ""
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        return _hint(error.name or "", _new_name(error.obj.__name__, error.name or ""))
    if isinstance(error, NameError):
        return _hint(error.name or "", _new_name("training", error.name or ""))
    if isinstance(error, TypeError):
        match = _UNEXPECTED_ARGUMENT.search(str(error))
        return _hint(match[1], RENAMED_PARAMETERS.get(match[1])) if match else ""
    return ""


def renamed_net_parameter_hint(old: str, parameters: Collection[str]) -> str:
    """Find the new name of a net's parameter; returns as `renamed_hint` does.

    Args:
        old: the parameter that the net lacks.
        parameters: those that it has.
    """
    candidates = RENAMED_NET_PARAMETERS.get(old, ())
    return _hint(old, next((new for new in candidates if new in parameters), None))


def _hint(old: str, new: str | None) -> str:
    return f"; {old!r} is called {new!r} now" if new else ""


def _new_module(module: str) -> str | None:
    parent, rest = module, ""
    while parent:
        if parent in RENAMED_MODULES:
            return RENAMED_MODULES[parent] + rest
        parent, _, last = parent.rpartition(".")
        rest = f".{last}{rest}"
    return None


def _new_name(module: str, name: str) -> str | None:
    if module.partition(".")[0] != "training":
        return None
    by_name = {old.rpartition(".")[2]: new for old, new in RENAMED_NAMES.items()}
    return RENAMED_NAMES.get(f"{module}.{name}") or _new_module(f"{module}.{name}") or by_name.get(name)

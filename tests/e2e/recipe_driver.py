"""Trains and deploys recipes for test_recipes.py, in a process of its own that is connected to the session's cluster.

Reads a recipe's name per line of standard input; for each, prints a line of JSON: a `predict` request, and the
prediction that the training code computes for the same row. A name with "only train " before it is trained, but not
published: its line has the run's name and metrics.
"""

import json
import sys
from typing import Any

import torch

from cluster.local.connect import connect
from cluster.local.ray_environment import set_ray_environment
from cluster.local.running_cluster import require_cluster
from cluster.settings import load_settings

# ruff: noqa: E402
SETTINGS = load_settings(None)
# Ray reads its environment variables when it is imported, as most of the modules below do.
set_ray_environment(SETTINGS)

from cluster.rollout.deploy import deploy
from deployments.protocols.predict import requests
from deployments.protocols.predict.outputs import format_predictions
from deployments.specs.model_deployment import Scale
from training import tasks
from training.bundle.load import Bundle, load_bundle
from training.data.preprocessing import prepare_dataset, tokenize_row, truncate_tokens
from training.recipe.load import load_recipe, override_recipe
from training.registry.model_registry import Registry
from training.run.driver import FinishedRun, run_training, train
from training.schema import ImageInput, TextInput

NEW_TOKENS = 5
# Less of what takes most of the time; requests and responses have the same form.
SMALLER = {
    "shakespeare-gpt": ["net.args.num_layers=1", "net.args.hidden_size=32", "tokenizer.vocab_size=400"],
    "digits-detect": ["data.args.train_size=300", "data.args.test_size=60"],
    "roles": ["data.args.num_rows=800"],
}


def main() -> None:
    torch.set_num_threads(1)
    cluster = require_cluster(SETTINGS)
    connect(SETTINGS, cluster)
    registry = Registry(SETTINGS)
    for line in sys.stdin:
        command, _, name = line.strip().rpartition(" ")
        overrides = ["stop.steps=3", "workers=1", "checkpoints.interval_s=1000", *SMALLER.get(name, ())]
        recipe = override_recipe(load_recipe(name), overrides)
        try:
            if command:
                print(json.dumps(run_training(recipe, SETTINGS, keep_metrics)), flush=True)
                continue
            version = train(recipe, SETTINGS).version
            deploy(SETTINGS, cluster, version, lambda status: None, scale=Scale(cpus=0.1))
            bundle = load_bundle(registry.fetch_bundle(version), version.digest)
            result = compute_expected(recipe, bundle)
        except Exception as error:  # fails this recipe's test only
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


def keep_metrics(finished: FinishedRun) -> dict[str, Any]:
    """End a run without a version, as a trial of a hyperparameter search does."""
    return {"run": finished.name, "metrics": finished.metrics, "wrote_bundle": finished.bundle.is_dir()}


def compute_expected(recipe: Any, bundle: Bundle) -> dict[str, Any]:
    """Return a `predict` request of the first test row, and the net's prediction for the row as training encodes it."""
    dataset, splits, preprocessing = prepare_dataset(recipe)
    task = tasks.make_task(recipe, dataset, preprocessing)
    first = dataset.select(splits["test"][:1])
    rows, row = task.encode_rows(first), first.inputs[0]
    manifest = bundle.manifest
    output_kind = manifest.output_schema.kind
    if output_kind == "text":
        prompt = str(row)[:40]
        return {
            "request": {"inputs": [prompt], "max_tokens": NEW_TOKENS, "temperature": 0},
            "predictions": [{"text": decode_greedily(bundle, prompt)}],
            "manifest": manifest.model_dump(mode="json"),
        }
    row_contexts: list[Any] = [None]
    if isinstance(manifest.input_schema, TextInput):
        assert preprocessing.tokenizer is not None
        example: Any = row
        tokens = tokenize_row(preprocessing.tokenizer, example)
        row_contexts = [(row, truncate_tokens(tokens, recipe.tokenizer.max_tokens))]
    else:
        example = manifest.input_schema.to_example(rows.inputs[0])
        if isinstance(manifest.input_schema, ImageInput):
            row_contexts = [(manifest.input_schema.width, manifest.input_schema.height)]
    request: dict[str, Any] = {"inputs": [example]}
    with torch.inference_mode():
        outputs = bundle.net(rows.inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    options = requests.REQUEST_TYPES[output_kind](request["inputs"])
    predictions = format_predictions(manifest, outputs, row_contexts, options)
    return {"request": request, "predictions": predictions, "manifest": manifest.model_dump(mode="json")}


def decode_greedily(bundle: Bundle, prompt: str) -> str:
    assert bundle.tokenizer is not None
    ids = bundle.tokenizer.encode(prompt).ids
    decoded_prompt = bundle.tokenizer.decode(ids)
    for _ in range(NEW_TOKENS):
        with torch.inference_mode():
            logits_V = bundle.net(torch.tensor([ids]))[0, -1]
        # The first four ids are special tokens.
        ids.append(4 + int(logits_V[4:].argmax()))
    return bundle.tokenizer.decode(ids)[len(decoded_prompt) :]


if __name__ == "__main__":
    main()

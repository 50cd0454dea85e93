"""Trains and deploys recipes for test_recipes.py, in a process of its own whose Ray is the session's cluster.

A recipe's name a line on standard input; for each, a line of JSON on standard output: a request in the words of its
task, and what the training side says to the same row.
"""

import json
import sys
from typing import Any

import torch

from cluster.local.connect import connect
from cluster.local.ray_environment import set_ray_environment
from cluster.local.record import require_cluster
from cluster.settings import load_settings

# ruff: noqa: E402
SETTINGS = load_settings(None)
# Ray reads its switches when it is imported, which most of what follows does.
set_ray_environment(SETTINGS)

from cluster.rollout.deploy import deploy
from deployments.protocols.predict import requests
from deployments.protocols.predict.outputs import format_predictions
from deployments.specs.model import Scale
from training import tasks
from training.bundle.load import Bundle, load_bundle
from training.data.preprocessing import prepare_dataset, tokenize_row, truncate_tokens
from training.recipe.load import (
    load_recipe,
    override_recipe,
)
from training.registry.model_registry import Registry
from training.run.driver import train

NEW_TOKENS = 5
# Nets whose size is most of a test's time, made small: what they are asked and say goes the same way.
SMALL = {"shakespeare-gpt": ["net.args.num_layers=1", "net.args.hidden_size=32"]}


def main() -> None:
    torch.set_num_threads(1)
    settings = SETTINGS
    cluster = require_cluster(settings)
    connect(settings, cluster)
    registry = Registry(settings)
    for line in sys.stdin:
        name = line.strip()
        small = ["stop.steps=3", "workers=1", "checkpoints.interval_s=1000", *SMALL.get(name, ())]
        recipe = override_recipe(load_recipe(name), small)
        try:
            version = train(recipe, settings).version
            deploy(settings, cluster, version, lambda status: None, scale=Scale(cpus=0.1))
            loaded = load_bundle(registry.fetch_bundle(version), version.digest)
            said = expected(recipe, loaded)
        except Exception as error:  # the next recipe is another test
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


def expected(recipe: Any, loaded: Bundle) -> dict[str, Any]:
    """The first held-out row in words, and what the net says to it as training prepared it."""
    dataset, parts, fitted = prepare_dataset(recipe)
    task = tasks.make_task(recipe, dataset, fitted)
    first = dataset.select(parts["test"][:1])
    rows, item = task.encode_rows(first), first.inputs[0]
    kind = loaded.manifest.output_schema.kind
    if kind == "text":
        prompt = item[:40]
        return {
            "request": {"inputs": [prompt], "max_tokens": NEW_TOKENS, "temperature": 0},
            "predictions": [{"text": greedy(loaded, prompt)}],
            "manifest": loaded.manifest.model_dump(mode="json"),
        }
    text = fitted.tokenizer is not None
    word = item if text else loaded.manifest.input_schema.to_example(rows.inputs[0])
    known: list[Any] = [None]
    if text:
        known = [(item, truncate_tokens(tokenize_row(fitted.tokenizer, item), recipe.tokenizer.max_tokens))]
    elif loaded.manifest.input_schema.kind == "image":
        known = [(loaded.manifest.input_schema.width, loaded.manifest.input_schema.height)]
    request: dict[str, Any] = {"inputs": [word]}
    with torch.inference_mode():
        output = loaded.net(rows.inputs)
    output = output if isinstance(output, tuple) else (output,)
    form = requests.REQUEST_TYPES[kind](request["inputs"])
    said = format_predictions(loaded.manifest, output, known, form)
    return {"request": request, "predictions": said, "manifest": loaded.manifest.model_dump(mode="json")}


def greedy(loaded: Bundle, prompt: str) -> str:
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer.encode(prompt).ids
    begin = loaded.tokenizer.decode(ids)
    for _ in range(NEW_TOKENS):
        with torch.inference_mode():
            y = loaded.net(torch.tensor([ids]))[0, -1]
        # The first four ids stand for no text.
        ids.append(4 + int(y[4:].argmax()))
    return loaded.tokenizer.decode(ids)[len(begin) :]


if __name__ == "__main__":
    main()

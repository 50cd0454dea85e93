"""Trains and deploys recipes for test_recipes.py, in a process of its own whose Ray is the session's cluster.

A recipe's name a line on standard input; for each, a line of JSON on standard output: a request in the words of its
task, and what the training side says to the same row.
"""

import json
import sys
from typing import Any

import torch

from cluster import lifecycle
from cluster.settings import load_settings

SETTINGS = load_settings(None)
# Ray reads its switches when it is imported, which most of what follows does.
lifecycle.use_switches(SETTINGS)

from cluster import rollout  # noqa: E402
from deployments.codec import answers  # noqa: E402
from deployments.spec import Scale  # noqa: E402
from training import bundle, prepare, tasks  # noqa: E402
from training.recipe import load_recipe, override  # noqa: E402
from training.registry import Registry  # noqa: E402
from training.run import train  # noqa: E402

NEW_TOKENS = 5
# Nets whose size is most of a test's time, made small: what they are asked and say goes the same way.
SMALL = {"shakespeare-gpt": ["net.args.layers=1", "net.args.width=32"]}


def main() -> None:
    torch.set_num_threads(1)
    settings = SETTINGS
    cluster = lifecycle.require(settings)
    lifecycle.connect(settings, cluster)
    registry = Registry(settings)
    for line in sys.stdin:
        name = line.strip()
        small = ["stop.steps=3", "workers=1", "checkpoints.every_s=1000", *SMALL.get(name, ())]
        recipe = override(load_recipe(name), small)
        try:
            version = train(recipe, settings).version
            rollout.deploy(settings, cluster, str(version), Scale(cpus=0.1), lambda status: None)
            loaded = bundle.load(registry.fetch(version), version.digest)
            said = expected(recipe, loaded)
        except Exception as error:  # the next recipe is another test
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


def expected(recipe: Any, loaded: bundle.Bundle) -> dict[str, Any]:
    """The first held-out row in words, and what the net says to it as training prepared it."""
    dataset, parts, fitted = prepare.load(recipe)
    task = tasks.task_of(recipe, dataset, fitted)
    first = dataset.select(parts["test"][:1])
    rows, item = task.rows(first), first.inputs[0]
    kind = loaded.manifest.answer.kind
    if kind == "continuation":
        prompt = item[:40]
        return {
            "request": {"inputs": [prompt], "max_tokens": NEW_TOKENS, "temperature": 0},
            "predictions": [{"text": greedy(loaded, prompt)}],
            "manifest": loaded.manifest.model_dump(mode="json"),
        }
    text = fitted.tokeniser is not None
    word = item if text else loaded.manifest.words.example(rows.inputs[0])
    known: list[Any] = [None]
    if text:
        known = [(item, prepare.cut(prepare.tokenise(fitted.tokeniser, item), recipe.tokens.max_tokens))]
    elif loaded.manifest.words.kind == "image":
        known = [(loaded.manifest.words.width, loaded.manifest.words.height)]
    request: dict[str, Any] = {"inputs": [word]}
    with torch.inference_mode():
        output = loaded.net(rows.inputs)
    output = output if isinstance(output, tuple) else (output,)
    form = answers.REQUESTS[kind](request["inputs"])
    said = answers.predictions(loaded.manifest, output, known, form)
    return {"request": request, "predictions": said, "manifest": loaded.manifest.model_dump(mode="json")}


def greedy(loaded: bundle.Bundle, prompt: str) -> str:
    assert loaded.tokeniser is not None
    ids = loaded.tokeniser.encode(prompt).ids
    begin = loaded.tokeniser.decode(ids)
    for _ in range(NEW_TOKENS):
        with torch.inference_mode():
            y = loaded.net(torch.tensor([ids]))[0, -1]
        # The first four ids stand for no text.
        ids.append(4 + int(y[4:].argmax()))
    return loaded.tokeniser.decode(ids)[len(begin) :]


if __name__ == "__main__":
    main()

"""What a classical method reaches on each recipe's own split: the score that a net has to be worth its trouble against.

Every baseline is fitted on the training and validation rows together, and judged on the recipe's test rows.
"""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from training.data.bio_tags import Span
from training.data.dataset import Dataset
from training.data.preprocessing import prepare_dataset
from training.recipe.spec import Recipe
from training.tasks.token_classification import span_f1

warnings.filterwarnings("ignore")


def baseline(recipe: Recipe) -> tuple[str, float]:
    """Name and score of the classical method for a recipe, in the recipe's own metric."""
    name, method = _METHODS[recipe.name]
    dataset, parts, _ = prepare_dataset(recipe)
    fit = dataset.select(torch.cat([parts["train"], parts["validation"]]).sort().values)
    return name, float(method(fit, dataset.select(parts["test"])))


def _flat(dataset: Dataset) -> np.ndarray:
    assert isinstance(dataset.inputs, torch.Tensor)
    return dataset.inputs.flatten(1).numpy()


def _fitted(model: Any) -> Callable[[Dataset, Dataset], float]:
    def score(fit: Dataset, test: Dataset) -> float:
        return float(
            make_pipeline(StandardScaler(), model).fit(_flat(fit), fit.targets).score(_flat(test), test.targets)
        )

    return score


def _text(model: Any, **options: Any) -> Callable[[Dataset, Dataset], float]:
    def score(fit: Dataset, test: Dataset) -> float:
        pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2, **options), model)
        return float(pipeline.fit(fit.inputs, fit.targets).score(test.inputs, test.targets))

    return score


def _speaker(fit: Dataset, test: Dataset) -> float:
    def said(dataset: Dataset) -> np.ndarray:
        return np.stack([np.concatenate([x.mean(0), x.std(0), x[0], x[-1]]) for x in dataset.inputs])

    model = make_pipeline(StandardScaler(), SVC(C=10))
    return float(model.fit(said(fit), fit.targets).score(said(test), test.targets))


def _autoregression(fit: Dataset, test: Dataset) -> float:
    recent = slice(-11, None)
    model = LinearRegression().fit(_flat(fit)[:, recent], fit.targets)
    return float(np.abs(model.predict(_flat(test)[:, recent]) - np.asarray(test.targets)).mean())


def _forest(fit: Dataset, test: Dataset) -> float:
    model = RandomForestRegressor(300, random_state=0).fit(_flat(fit), fit.targets)
    return float(r2_score(test.targets, model.predict(_flat(test))))


def _pixel_means(fit: Dataset, test: Dataset) -> float:
    def white(dataset: Dataset) -> np.ndarray:
        return _flat(dataset) >= 128

    p = white(fit).mean(0).clip(1 / len(fit), 1 - 1 / len(fit))
    return float(-np.where(white(test), np.log(p), np.log(1 - p)).sum(1).mean())


def _gazetteer(fit: Dataset, test: Dataset) -> float:
    """Every name of the training texts, longest first, with its most frequent type."""
    counts: Counter[tuple[str, str]] = Counter(
        (text[a:b], label) for text, spans in zip(fit.inputs, fit.targets or (), strict=True) for a, b, label in spans
    )
    names: dict[str, str] = {}
    for (name, label), _ in counts.most_common():
        names.setdefault(name, label)
    longest = max(map(len, names))

    def find(text: str) -> set[Span]:
        spans, at = set(), 0
        while at < len(text):
            for size in range(min(longest, len(text) - at), 1, -1):
                if text[at : at + size] in names:
                    spans.add((at, at + size, names[text[at : at + size]]))
                    at += size - 1
                    break
            at += 1
        return spans

    return _span_f1([find(text) for text in test.inputs], test)


def _positions(fit: Dataset, test: Dataset) -> float:
    """The most frequent role of each half of the sentence: what stands before the verb, what stands after it."""
    before, after = Counter[str](), Counter[str]()
    for row, spans in zip(fit.inputs, fit.targets or (), strict=True):
        for start, _, label in spans:
            (before if start < row["predicate"][0] else after)[label] += 1
    first, last = before.most_common(1)[0][0], after.most_common(1)[0][0]
    said = []
    for row in test.inputs:
        start, end = row["predicate"]
        text = row["text"].rstrip(" .?")
        said.append({(0, max(start - 1, 0), first), (end + 1, len(text), last)})
    return _span_f1(said, test)


def _span_f1(said: list[set[Span]], test: Dataset) -> float:
    true = [{(a, b, label) for a, b, label in spans} for spans in test.targets or ()]
    hits = sum(len(s & t) for s, t in zip(said, true, strict=True))
    return span_f1(hits, sum(map(len, said)) - hits, sum(map(len, true)) - hits)["f1"]


def _ngrams(fit: Dataset, test: Dataset, order: int = 6) -> float:
    """Bits per character of a 6-gram model, interpolated as Witten and Bell (1991) do."""
    counts: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(order)]
    for text in fit.inputs:
        padded = "\0" * (order - 1) + text
        for i in range(order - 1, len(padded)):
            for k in range(order):
                counts[k][padded[i - k : i]][padded[i]] += 1
    totals = [{h: (sum(c.values()), len(c)) for h, c in level.items()} for level in counts]
    bits, characters = 0.0, 0
    for text in test.inputs:
        padded = "\0" * (order - 1) + text
        for i in range(order - 1, len(padded)):
            p = 1 / 96
            for k in range(order):
                history = padded[i - k : i]
                if history not in totals[k]:
                    break
                total, kinds = totals[k][history]
                p = (counts[k][history].get(padded[i], 0) + kinds * p) / (total + kinds)
            bits -= math.log2(p)
            characters += 1
    return bits / characters


def _blobs(fit: Dataset, test: Dataset) -> float:
    """Connected components, each read by logistic regression on its crop."""
    from scipy import ndimage
    from torch.nn.functional import interpolate

    from training.evaluation.detection import average_precision

    def crop(picture: torch.Tensor, box: list[int]) -> np.ndarray:
        x1, y1, x2, y2 = box
        cut = picture[y1:y2, x1:x2].float()[None, None] / 255
        return interpolate(cut, (20, 20), mode="bilinear").flatten().numpy()

    assert isinstance(fit.inputs, torch.Tensor)
    assert isinstance(test.inputs, torch.Tensor)
    assert isinstance(fit.targets, torch.Tensor)
    assert isinstance(test.targets, torch.Tensor)
    known = [
        (crop(picture[0], [int(n) for n in box[:4]]), int(box[4]))
        for picture, boxes in zip(fit.inputs, fit.targets.tolist(), strict=True)
        for box in boxes
        if box[4] >= 0
    ]
    model = LogisticRegression(max_iter=200, C=0.05).fit([x for x, _ in known], [y for _, y in known])
    found = []
    for picture in test.inputs[:, 0]:
        rows = []
        for down, across in ndimage.find_objects(ndimage.label(picture.numpy() >= 32, np.ones((3, 3)))[0]):
            box = [across.start, down.start, across.stop, down.stop]
            if (box[2] - box[0]) * (box[3] - box[1]) >= 20:
                p = model.predict_proba([crop(picture, box)])[0]
                rows.append([*box, p.max(), p.argmax()])
        found.append(torch.tensor(rows, dtype=torch.float32).reshape(-1, 6))
    return average_precision(found, list(test.targets), classes=len(test.labels))


_DIGITS = ("logistic regression", _fitted(LogisticRegression(max_iter=300, C=0.05)))
_SENTIMENT = (
    "TF-IDF of 1-3 characters, logistic regression",
    _text(LogisticRegression(C=4, max_iter=300), analyzer="char", ngram_range=(1, 3)),
)
_METHODS: dict[str, tuple[str, Callable[[Dataset, Dataset], float]]] = {
    "breast-cancer": ("logistic regression", _fitted(LogisticRegression(max_iter=2000))),
    "iris": ("logistic regression", _fitted(LogisticRegression(max_iter=2000))),
    "wine": ("logistic regression", _fitted(LogisticRegression(max_iter=2000))),
    "diabetes": ("ridge", _fitted(RidgeCV(np.logspace(-2, 3, 20)))),
    "autompg": ("random forest", _forest),
    "digits-mlp": _DIGITS,
    "digits-cnn": _DIGITS,
    "digits-resnet": _DIGITS,
    "digits-vae": ("the mean of each pixel", _pixel_means),
    "digits-detect": ("connected components, logistic regression", _blobs),
    "sentiment-bag": _SENTIMENT,
    "sentiment-rnn": _SENTIMENT,
    "sentiment-lstm": _SENTIMENT,
    "sentiment-transformer": _SENTIMENT,
    "topics": ("TF-IDF of words, logistic regression", _text(LogisticRegression(C=4, max_iter=300))),
    "entities": ("gazetteer, longest match", _gazetteer),
    "entities-last": ("gazetteer, longest match", _gazetteer),
    "roles": ("one role before the verb, one after", _positions),
    "shakespeare-lstm": ("6-grams of characters, Witten-Bell", _ngrams),
    "shakespeare-gpt": ("6-grams of characters, Witten-Bell", _ngrams),
    "speaker": ("means, deviations and ends; SVC", _speaker),
    "sunspots": ("AR(11), least squares", _autoregression),
}

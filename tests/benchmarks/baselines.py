"""Baselines: the score of a classical method on each recipe's split, which a net should beat.

Each is fitted on the training and validation rows together and scored on the recipe's test rows.
"""
# Shapes: N rows, F features, T time steps.

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
from training.tasks.token_classification import precision_recall_f1

warnings.filterwarnings("ignore")


def score_baseline(recipe: Recipe) -> tuple[str, float]:
    """Name and score of the classical method for a recipe, in the recipe's primary metric."""
    name, method = _METHODS[recipe.name]
    dataset, splits, _ = prepare_dataset(recipe)
    train = dataset.select(torch.cat([splits["train"], splits["validation"]]).sort().values)
    return name, float(method(train, dataset.select(splits["test"])))


def _flatten_inputs(dataset: Dataset) -> np.ndarray:
    assert isinstance(dataset.inputs, torch.Tensor)
    return dataset.inputs.flatten(1).numpy()


def _standardized(model: Any) -> Callable[[Dataset, Dataset], float]:
    def score(train: Dataset, test: Dataset) -> float:
        pipeline = make_pipeline(StandardScaler(), model).fit(_flatten_inputs(train), train.targets)
        return float(pipeline.score(_flatten_inputs(test), test.targets))

    return score


def _tfidf(model: Any, **options: Any) -> Callable[[Dataset, Dataset], float]:
    def score(train: Dataset, test: Dataset) -> float:
        pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2, **options), model)
        return float(pipeline.fit(train.inputs, train.targets).score(test.inputs, test.targets))

    return score


def _score_series_svc(train: Dataset, test: Dataset) -> float:
    """Accuracy of an SVC on each series' mean, deviation, first and last time step."""

    def extract_features(dataset: Dataset) -> np.ndarray:
        return np.stack([np.concatenate([x_TF.mean(0), x_TF.std(0), x_TF[0], x_TF[-1]]) for x_TF in dataset.inputs])

    model = make_pipeline(StandardScaler(), SVC(C=10)).fit(extract_features(train), train.targets)
    return float(model.score(extract_features(test), test.targets))


def _score_autoregression(train: Dataset, test: Dataset) -> float:
    """Mean absolute error of a linear model of the last 11 time steps."""
    recent = slice(-11, None)
    model = LinearRegression().fit(_flatten_inputs(train)[:, recent], train.targets)
    return float(np.abs(model.predict(_flatten_inputs(test)[:, recent]) - np.asarray(test.targets)).mean())


def _score_random_forest(train: Dataset, test: Dataset) -> float:
    model = RandomForestRegressor(300, random_state=0).fit(_flatten_inputs(train), train.targets)
    return float(r2_score(test.targets, model.predict(_flatten_inputs(test))))


def _score_pixel_means(train: Dataset, test: Dataset) -> float:
    """Negative log-likelihood in nats per image, of pixels that are independent of each other."""

    def is_white(dataset: Dataset) -> np.ndarray:
        return _flatten_inputs(dataset) >= 128

    p_F = is_white(train).mean(0).clip(1 / len(train), 1 - 1 / len(train))
    return float(-np.where(is_white(test), np.log(p_F), np.log(1 - p_F)).sum(1).mean())


def _score_gazetteer(train: Dataset, test: Dataset) -> float:
    """Span F1 of looking up the names of the training texts, longest first, with their most frequent label."""
    counts: Counter[tuple[str, str]] = Counter(
        (text[start:end], label)
        for text, spans in zip(train.inputs, train.targets or (), strict=True)
        for start, end, label in spans
    )
    label_of_name: dict[str, str] = {}
    for (name, label), _ in counts.most_common():
        label_of_name.setdefault(name, label)
    max_length = max(map(len, label_of_name))

    def find_spans(text: str) -> set[Span]:
        spans, start = set(), 0
        while start < len(text):
            for end in range(min(start + max_length, len(text)), start + 1, -1):
                if text[start:end] in label_of_name:
                    spans.add((start, end, label_of_name[text[start:end]]))
                    start = end - 1
                    break
            start += 1
        return spans

    return _span_f1([find_spans(text) for text in test.inputs], test)


def _score_role_positions(train: Dataset, test: Dataset) -> float:
    """Span F1 of the most frequent role before the verb, and of the most frequent one after it."""
    before, after = Counter[str](), Counter[str]()
    for row, spans in zip(train.inputs, train.targets or (), strict=True):
        for start, _, label in spans:
            (before if start < row["predicate"][0] else after)[label] += 1
    label_before, label_after = before.most_common(1)[0][0], after.most_common(1)[0][0]
    predictions = []
    for row in test.inputs:
        start, end = row["predicate"]
        text = row["text"].rstrip(" .?")
        predictions.append({(0, max(start - 1, 0), label_before), (end + 1, len(text), label_after)})
    return _span_f1(predictions, test)


def _span_f1(predictions: list[set[Span]], test: Dataset) -> float:
    targets = [{(start, end, label) for start, end, label in spans} for spans in test.targets or ()]
    hits = sum(len(predicted & true) for predicted, true in zip(predictions, targets, strict=True))
    false_positives, false_negatives = sum(map(len, predictions)) - hits, sum(map(len, targets)) - hits
    return precision_recall_f1(hits, false_positives, false_negatives)["f1"]


def _score_character_ngrams(train: Dataset, test: Dataset, order: int = 6) -> float:
    """Bits per character of an n-gram language model with Witten-Bell interpolation (Witten, Bell, 1991)."""
    # By length of the context, then by context: how often each character follows it.
    counts: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(order)]
    for text in train.inputs:
        padded = "\0" * (order - 1) + text
        for i in range(order - 1, len(padded)):
            for k in range(order):
                counts[k][padded[i - k : i]][padded[i]] += 1
    totals = [{context: (sum(c.values()), len(c)) for context, c in by_context.items()} for by_context in counts]
    bits, num_characters = 0.0, 0
    for text in test.inputs:
        padded = "\0" * (order - 1) + text
        for i in range(order - 1, len(padded)):
            # Uniform over the printable ASCII characters and the line break.
            p = 1 / 96
            for k in range(order):
                context = padded[i - k : i]
                if context not in totals[k]:
                    break
                num_tokens, num_types = totals[k][context]
                p = (counts[k][context].get(padded[i], 0) + num_types * p) / (num_tokens + num_types)
            bits -= math.log2(p)
            num_characters += 1
    return bits / num_characters


def _score_connected_components(train: Dataset, test: Dataset) -> float:
    """Mean average precision of connected components, each classified by logistic regression on its crop."""
    from scipy import ndimage
    from torch.nn.functional import interpolate

    from training.evaluation.detection import average_precision

    def crop(image_HW: torch.Tensor, box: list[int]) -> np.ndarray:
        x1, y1, x2, y2 = box
        region = image_HW[y1:y2, x1:x2].float()[None, None] / 255
        return interpolate(region, (20, 20), mode="bilinear").flatten().numpy()

    assert isinstance(train.inputs, torch.Tensor)
    assert isinstance(test.inputs, torch.Tensor)
    assert isinstance(train.targets, torch.Tensor)
    assert isinstance(test.targets, torch.Tensor)
    crops, classes = [], []
    for image, boxes in zip(train.inputs, train.targets.tolist(), strict=True):
        for *box, class_index in boxes:
            if class_index >= 0:
                crops.append(crop(image[0], [int(coordinate) for coordinate in box]))
                classes.append(int(class_index))
    model = LogisticRegression(max_iter=200, C=0.05).fit(crops, classes)
    detections = []
    for image in test.inputs[:, 0]:
        rows = []
        for ys, xs in ndimage.find_objects(ndimage.label(image.numpy() >= 32, np.ones((3, 3)))[0]):
            x1, y1, x2, y2 = box = [xs.start, ys.start, xs.stop, ys.stop]
            if (x2 - x1) * (y2 - y1) >= 20:
                p = model.predict_proba([crop(image, box)])[0]
                rows.append([*box, p.max(), p.argmax()])
        detections.append(torch.tensor(rows, dtype=torch.float32).reshape(-1, 6))
    return average_precision(detections, test.targets, num_classes=len(test.labels))


_DIGITS = ("logistic regression", _standardized(LogisticRegression(max_iter=300, C=0.05)))
_SENTIMENT = (
    "TF-IDF of 1-3 characters, logistic regression",
    _tfidf(LogisticRegression(C=4, max_iter=300), analyzer="char", ngram_range=(1, 3)),
)
_METHODS: dict[str, tuple[str, Callable[[Dataset, Dataset], float]]] = {
    "breast-cancer": ("logistic regression", _standardized(LogisticRegression(max_iter=2000))),
    "iris": ("logistic regression", _standardized(LogisticRegression(max_iter=2000))),
    "wine": ("logistic regression", _standardized(LogisticRegression(max_iter=2000))),
    "diabetes": ("ridge", _standardized(RidgeCV(np.logspace(-2, 3, 20)))),
    "autompg": ("random forest", _score_random_forest),
    "digits-mlp": _DIGITS,
    "digits-cnn": _DIGITS,
    "digits-resnet": _DIGITS,
    "digits-vae": ("the mean of each pixel", _score_pixel_means),
    "digits-detect": ("connected components, logistic regression", _score_connected_components),
    "sentiment-bag": _SENTIMENT,
    "sentiment-rnn": _SENTIMENT,
    "sentiment-lstm": _SENTIMENT,
    "sentiment-transformer": _SENTIMENT,
    "topics": ("TF-IDF of words, logistic regression", _tfidf(LogisticRegression(C=4, max_iter=300))),
    "entities": ("gazetteer, longest match", _score_gazetteer),
    "entities-last": ("gazetteer, longest match", _score_gazetteer),
    "roles": ("one role before the verb, one after", _score_role_positions),
    "shakespeare-lstm": ("6-grams of characters, Witten-Bell", _score_character_ngrams),
    "shakespeare-gpt": ("6-grams of characters, Witten-Bell", _score_character_ngrams),
    "speaker": ("means, deviations and ends; SVC", _score_series_svc),
    "sunspots": ("AR(11), least squares", _score_autoregression),
}

"""Malignant or benign, from thirty measures of a tumour's cell nuclei: one logit, binary cross-entropy."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.tables import breast_cancer
from training.zoo.nets.mlp import mlp

recipe = Recipe(
    name="breast-cancer",
    task="tabular-classification",
    summary="Tells malignant from benign tumours by thirty measures of their cell nuclei.",
    intended_use="Teaching. Not for diagnosis: 569 women of one clinic, measured before 1995.",
    data=Data(source=breast_cancer),
    net=Net(source=mlp, args={"features": 30, "hidden": [64, 32], "classes": 1, "dropout": 0.2}),
    optimizer=Optimizer(name="AdamW", lr=0.003, args={"weight_decay": 0.05}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=30),
    ema_decay=0.99,
    batch_size=32,
)

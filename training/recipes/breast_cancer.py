"""Malignant or benign, from thirty measures of a tumour's cell nuclei: one logit, binary cross-entropy."""

from training.datasets.tables import breast_cancer
from training.nets.mlp import mlp
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="breast-cancer",
    task="tabular-classification",
    summary="Tells malignant from benign tumours by thirty measures of their cell nuclei.",
    use="Teaching. Not for diagnosis: 569 women of one clinic, measured before 1995.",
    data=Data(source=breast_cancer),
    net=Net(source=mlp, args={"features": 30, "hidden": [64, 32], "classes": 1, "dropout": 0.2}),
    optimiser=Optimiser(name="AdamW", lr=0.003, args={"weight_decay": 0.05}),
    schedule=Schedule(name="cosine"),
    stop=Stop(epochs=30),
    ema_decay=0.99,
    batch_rows=32,
)

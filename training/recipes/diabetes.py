"""How far diabetes goes in a year, from ten measures."""

from training.datasets.tables import diabetes
from training.nets.mlp import mlp
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="diabetes",
    task="tabular-regression",
    summary="Foretells how far diabetes has gone after a year from ten measures of a patient.",
    use="Teaching. Not for treatment: 442 patients of one study, and half of the variation is not explained.",
    data=Data(source=diabetes),
    net=Net(source=mlp, args={"features": 10, "hidden": [32], "classes": 1, "dropout": 0.3}),
    optimiser=Optimiser(name="AdamW", lr=0.003, args={"weight_decay": 0.1}),
    schedule=Schedule(name="cosine"),
    stop=Stop(epochs=30),
    ema_decay=0.99,
    batch_rows=32,
)

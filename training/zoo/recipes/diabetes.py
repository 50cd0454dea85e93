"""How far diabetes goes in a year, from ten measures."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.tables import diabetes
from training.zoo.nets.mlp import mlp

recipe = Recipe(
    name="diabetes",
    task="tabular-regression",
    summary="Foretells how far diabetes has gone after a year from ten measures of a patient.",
    intended_use="Teaching. Not for treatment: 442 patients of one study, and half of the variation is not explained.",
    data=Data(source=diabetes),
    net=Net(source=mlp, args={"features": 10, "hidden": [64], "classes": 1, "dropout": 0.3}),
    # Few rows and much noise: without strong decay the score moves by 0.08 from seed to seed.
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 3.0}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=60),
    ema_decay=0.99,
    batch_size=32,
)

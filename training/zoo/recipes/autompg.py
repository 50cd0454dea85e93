"""Miles per gallon of cars of 1970 to 1982, one of whose features is a category."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.tables import autompg
from training.zoo.nets.mlp import mlp

recipe = Recipe(
    name="autompg",
    task="tabular-regression",
    summary="Foretells a car's miles per gallon from its engine, weight, year and origin.",
    intended_use="Teaching. Cars of 1970 to 1982.",
    data=Data(source=autompg),
    net=Net(source=mlp, args={"hidden": [128, 64], "classes": 1, "dropout": 0.1}),
    optimizer=Optimizer(name="AdamW", lr=0.002, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=60),
    ema_decay=0.99,
    batch_size=16,
)

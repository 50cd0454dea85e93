"""Miles per gallon of cars of 1970 to 1982, one of whose features is a category."""

from training.datasets.tables import autompg
from training.nets.mlp import mlp
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="autompg",
    task="tabular-regression",
    summary="Foretells a car's miles per gallon from its engine, weight, year and origin.",
    use="Teaching. Cars of 1970 to 1982.",
    data=Data(source=autompg),
    net=Net(source=mlp, args={"hidden": [128, 64], "classes": 1, "dropout": 0.1}),
    optimiser=Optimiser(name="AdamW", lr=0.002, args={"weight_decay": 0.1}),
    schedule=Schedule(name="cosine"),
    stop=Stop(epochs=60),
    ema_decay=0.99,
    batch_rows=16,
)

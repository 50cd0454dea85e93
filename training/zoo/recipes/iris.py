"""Three iris species from four measurements."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.tables import iris
from training.zoo.nets.mlp import mlp

recipe = Recipe(
    name="iris",
    task="tabular-classification",
    summary="Names the species of an iris flower from four measurements in centimetres.",
    intended_use="Teaching. Three species of one genus, measured in one place in 1935.",
    data=Data(source=iris),
    net=Net(source=mlp, args={"features": 4, "hidden": [32], "classes": 3}),
    optimizer=Optimizer(name="AdamW", lr=0.01, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=30),
    ema_decay=0.99,
    batch_size=16,
)

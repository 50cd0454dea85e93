"""Three growers of wine, told apart by chemistry."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.tables import wine
from training.zoo.nets.mlp import mlp

recipe = Recipe(
    name="wine",
    task="tabular-classification",
    summary="Names the grower of a wine from thirteen chemical measures.",
    intended_use="Teaching. Three growers of one region of Italy.",
    data=Data(source=wine),
    net=Net(source=mlp, args={"features": 13, "hidden": [64], "classes": 3, "dropout": 0.2}),
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=30),
    ema_decay=0.99,
    batch_size=16,
)

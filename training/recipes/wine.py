"""Three growers of wine, told apart by chemistry."""

from training.datasets.tables import wine
from training.nets.mlp import mlp
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="wine",
    task="tabular-classification",
    summary="Names the grower of a wine from thirteen chemical measures.",
    use="Teaching. Three growers of one region of Italy.",
    data=Data(source=wine),
    net=Net(source=mlp, args={"features": 13, "hidden": [64], "classes": 3, "dropout": 0.2}),
    optimiser=Optimiser(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=Schedule(name="cosine"),
    stop=Stop(epochs=30),
    ema_decay=0.99,
    batch_rows=16,
)

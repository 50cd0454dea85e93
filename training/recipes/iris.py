"""Three iris species from four measurements."""

from training.datasets.tables import iris
from training.nets.mlp import mlp
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="iris",
    task="tabular-classification",
    summary="Names the species of an iris flower from four measurements in centimetres.",
    use="Teaching. Three species of one genus, measured in one place in 1935.",
    data=Data(source=iris),
    net=Net(source=mlp, args={"features": 4, "hidden": [32], "classes": 3}),
    optimiser=Optimiser(name="AdamW", lr=0.01, args={"weight_decay": 0.01}),
    schedule=Schedule(name="cosine"),
    stop=Stop(epochs=30),
    ema_decay=0.99,
    batch_rows=16,
)

"""Three iris species from four measurements."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="iris",
    task="tabular-classification",
    summary="Classifies the species of an iris flower from four measurements in centimeters.",
    intended_use="Teaching. Three species of one genus, measured at one site in 1935.",
    data=Data(source="training.zoo.datasets.tables:iris"),
    net=Net(source="training.zoo.nets.mlp:mlp", args={"num_features": 4, "hidden_sizes": [32], "num_classes": 3}),
    optimizer=Optimizer(name="AdamW", lr=0.01, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=30),
    ema_decay=0.99,
    batch_size=16,
)

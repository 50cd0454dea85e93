"""Miles per gallon of cars of 1970 to 1982, from a table with one categorical feature."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="autompg",
    task="tabular-regression",
    summary="Predicts a car's miles per gallon from its engine, weight, year and origin.",
    intended_use="Teaching. Cars of 1970 to 1982.",
    data=Data(source="training.zoo.datasets.tables:autompg"),
    net=Net(source="training.zoo.nets.mlp:mlp", args={"hidden_sizes": [128, 64], "num_classes": 1, "dropout": 0.1}),
    optimizer=Optimizer(name="AdamW", lr=0.002, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=60),
    ema_decay=0.99,
    batch_size=16,
)

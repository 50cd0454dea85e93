"""Diabetes progression after a year, from ten measures of a patient."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="diabetes",
    task="tabular-regression",
    summary="Predicts diabetes progression after a year from ten measures of a patient.",
    intended_use="Teaching. Not for treatment: 442 patients of one study, and half of the variance is unexplained.",
    data=Data(source="training.zoo.datasets.tables:diabetes"),
    net=Net(
        source="training.zoo.nets.mlp:mlp",
        args={"num_features": 10, "hidden_sizes": [64], "num_classes": 1, "dropout": 0.3},
    ),
    # Few rows and much noise: without strong weight decay the score varies by 0.08 between seeds.
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 3.0}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=60),
    ema_decay=0.99,
    batch_size=32,
)

"""Malignant or benign, from thirty measures of a tumor's cell nuclei: one logit, binary cross-entropy."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="breast-cancer",
    task="tabular-classification",
    summary="Classifies breast tumors as malignant or benign from thirty measures of their cell nuclei.",
    intended_use="Teaching. Not for diagnosis: 569 women of one clinic, measured before 1995.",
    data=Data(source="training.zoo.datasets.tables:breast_cancer"),
    net=Net(
        source="training.zoo.nets.mlp:mlp",
        args={"num_features": 30, "hidden_sizes": [64, 32], "num_classes": 1, "dropout": 0.2},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.003, args={"weight_decay": 0.05}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=30),
    ema_decay=0.99,
    batch_size=32,
)

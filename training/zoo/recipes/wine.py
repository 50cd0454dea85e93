"""Three growers of wine, classified by chemistry."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="wine",
    task="tabular-classification",
    summary="Classifies the grower of a wine from thirteen chemical measures.",
    intended_use="Teaching. Three growers of one region of Italy.",
    data=Data(source="training.zoo.datasets.tables:wine"),
    net=Net(
        source="training.zoo.nets.mlp:mlp",
        args={"num_features": 13, "hidden_sizes": [64], "num_classes": 3, "dropout": 0.2},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=30),
    ema_decay=0.99,
    batch_size=16,
)

"""Next year's number of sunspots from the 33 years before."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="sunspots",
    task="time-series-forecasting",
    summary="Predicts next year's number of sunspots from the years before.",
    intended_use="Teaching. One year ahead, from yearly means.",
    data=Data(source="training.zoo.datasets.sunspots:sunspots"),
    net=Net(
        source="training.zoo.nets.forecaster:forecaster",
        args={"cell_type": "gru", "hidden_size": 32, "highway_window": 11},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.01, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=40),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=16,
)

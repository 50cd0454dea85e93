"""Next year's sunspots from the thirty-three years before."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.sunspots import sunspots
from training.zoo.nets.forecaster import forecaster

recipe = Recipe(
    name="sunspots",
    task="time-series-forecasting",
    summary="Foretells next year's number of sunspots from the years before.",
    intended_use="Teaching. One year ahead, from yearly means.",
    data=Data(source=sunspots),
    net=Net(source=forecaster, args={"cell": "gru", "width": 32, "highway": 11}),
    optimizer=Optimizer(name="AdamW", lr=0.01, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=40),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=16,
)

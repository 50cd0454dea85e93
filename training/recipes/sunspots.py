"""Next year's sunspots from the thirty-three years before."""

from training.datasets.sunspots import sunspots
from training.nets.forecaster import forecaster
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="sunspots",
    task="time-series-forecasting",
    summary="Foretells next year's number of sunspots from the years before.",
    use="Teaching. One year ahead, from yearly means.",
    data=Data(source=sunspots),
    net=Net(source=forecaster, args={"cell": "gru", "width": 32, "highway": 11}),
    optimiser=Optimiser(name="AdamW", lr=0.01, args={"weight_decay": 0.1}),
    schedule=Schedule(name="cosine"),
    stop=Stop(epochs=40),
    ema_decay=0.99,
    clip=1.0,
    batch_rows=16,
)

"""One to five handwritten digits on a 96x96 canvas: which, and where."""

from training.datasets.scenes import jitter, scenes
from training.nets.detector import Detector
from training.recipe import Augment, Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="digits-detect",
    task="object-detection",
    summary="Finds the handwritten digits in a picture, with a box and a label for each.",
    use="Up to some twenty digits, light on dark, a quarter to a half of the picture high. Canvases are composed, so "
    "that scores say nothing of scanned pages.",
    data=Data(source=scenes),
    net=Net(source=Detector, args={"channels": 1, "classes": 10, "width": 12, "peaks": 20}),
    augment=Augment(source=jitter),
    optimiser=Optimiser(name="AdamW", lr=0.004, args={"weight_decay": 0.02}),
    schedule=Schedule(name="cosine", warmup=0.1),
    stop=Stop(epochs=8),
    ema_decay=0.99,
    clip=10.0,
    batch_rows=32,
)

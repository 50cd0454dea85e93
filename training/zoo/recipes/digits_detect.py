"""One to five handwritten digits on a 96x96 canvas: which, and where."""

from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.scenes import jitter, scenes
from training.zoo.nets.detector import Detector

recipe = Recipe(
    name="digits-detect",
    task="object-detection",
    summary="Finds the handwritten digits in a picture, with a box and a label for each.",
    intended_use="Up to some twenty digits, light on dark, a quarter to a half of the picture high. Canvases are composed, so "
    "that scores say nothing of scanned pages.",
    data=Data(source=scenes),
    net=Net(source=Detector, args={"channels": 1, "classes": 10, "width": 12, "peaks": 20}),
    augmentation=Augmentation(source=jitter),
    optimizer=Optimizer(name="AdamW", lr=0.004, args={"weight_decay": 0.02}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=8),
    ema_decay=0.99,
    clip_grad_norm=10.0,
    batch_size=32,
)

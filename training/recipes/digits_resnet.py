"""Handwritten digits, 28x28, by a small residual net."""

from training.augment import random_affine
from training.datasets.digits import digits
from training.nets.resnet import resnet
from training.recipe import Augment, Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="digits-resnet",
    task="image-classification",
    summary="Reads one handwritten digit from a picture, with a residual net of eight layers.",
    use="One centred digit, light on dark. Not for pages, photographs or several digits at once: see digits-detect.",
    data=Data(source=digits),
    net=Net(source=resnet, args={"channels": 1, "classes": 10, "width": 32, "blocks": 1}),
    augment=Augment(source=random_affine, args={"degrees": 12.0, "scale": 0.15, "shear": 0.2, "translate": 2.0}),
    optimiser=Optimiser(name="AdamW", lr=0.004, args={"weight_decay": 0.02}),
    schedule=Schedule(name="cosine", warmup=0.15),
    stop=Stop(epochs=25),
    ema_decay=0.995,
    batch_rows=128,
)

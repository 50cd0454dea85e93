"""Handwritten digits, 28x28, by a small residual net."""

from training.data.augmentation import random_affine
from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.digits import digits
from training.zoo.nets.resnet import resnet

recipe = Recipe(
    name="digits-resnet",
    task="image-classification",
    summary="Reads one handwritten digit from a picture, with a residual net of eight layers.",
    intended_use="One centred digit, light on dark. Not for pages, photographs or several digits at once: see digits-detect.",
    data=Data(source=digits),
    net=Net(source=resnet, args={"channels": 1, "classes": 10, "width": 32, "blocks": 1}),
    augmentation=Augmentation(
        source=random_affine, args={"degrees": 12.0, "scale": 0.15, "shear": 0.2, "translate": 2.0}
    ),
    optimizer=Optimizer(name="AdamW", lr=0.004, args={"weight_decay": 0.02}),
    schedule=LrSchedule(name="cosine", warmup=0.15),
    stop=StopRule(epochs=25),
    ema_decay=0.995,
    batch_size=128,
)

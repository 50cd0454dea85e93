"""Handwritten digits, 28x28, by a small convolutional net."""

from training.data.augmentation import random_affine
from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.digits import digits
from training.zoo.nets.cnn import cnn

recipe = Recipe(
    name="digits-cnn",
    task="image-classification",
    summary="Reads one handwritten digit from a picture.",
    intended_use="One centred digit, light on dark. Not for pages, photographs or several digits at once: see digits-detect.",
    data=Data(source=digits),
    net=Net(source=cnn, args={"channels": 1, "classes": 10}),
    augmentation=Augmentation(
        source=random_affine, args={"degrees": 12.0, "scale": 0.15, "shear": 0.2, "translate": 2.0}
    ),
    optimizer=Optimizer(name="AdamW", lr=0.004, args={"weight_decay": 0.02}),
    schedule=LrSchedule(name="cosine", warmup=0.15),
    stop=StopRule(epochs=30),
    ema_decay=0.995,
    batch_size=128,
)

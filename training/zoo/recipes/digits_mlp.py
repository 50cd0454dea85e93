"""Handwritten digits, 28x28, by a plain multi-layer perceptron 784-64-64-10."""

from training.data.augmentation import random_affine
from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.digits import digits
from training.zoo.nets.mlp import mlp

recipe = Recipe(
    name="digits-mlp",
    task="image-classification",
    summary="Reads one handwritten digit from a picture, with the smallest net that can.",
    intended_use="Teaching and comparison; digits-cnn reads the same pictures far better.",
    data=Data(source=digits),
    net=Net(source=mlp, args={"features": 784, "hidden": [64, 64], "classes": 10, "flatten": True}),
    augmentation=Augmentation(
        source=random_affine, args={"degrees": 10.0, "scale": 0.12, "shear": 0.15, "translate": 1.5}
    ),
    optimizer=Optimizer(name="AdamW", lr=0.003, args={"weight_decay": 0.02}),
    schedule=LrSchedule(name="cosine", warmup=0.15),
    stop=StopRule(epochs=40),
    ema_decay=0.99,
    batch_size=64,
)

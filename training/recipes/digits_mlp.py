"""Handwritten digits, 28x28, by a plain multi-layer perceptron 784-64-64-10."""

from training.augment import random_affine
from training.datasets.digits import digits
from training.nets.mlp import mlp
from training.recipe import Augment, Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="digits-mlp",
    task="image-classification",
    summary="Reads one handwritten digit from a picture, with the smallest net that can.",
    use="Teaching and comparison; digits-cnn reads the same pictures far better.",
    data=Data(source=digits),
    net=Net(source=mlp, args={"features": 784, "hidden": [64, 64], "classes": 10, "flatten": True}),
    augment=Augment(source=random_affine, args={"degrees": 10.0, "scale": 0.12, "shear": 0.15, "translate": 1.5}),
    optimiser=Optimiser(name="AdamW", lr=0.003, args={"weight_decay": 0.02}),
    schedule=Schedule(name="cosine", warmup=0.15),
    stop=Stop(epochs=40),
    ema_decay=0.99,
    batch_rows=64,
)

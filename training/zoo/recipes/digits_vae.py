"""Handwritten digits, black and white, as twenty normal numbers each: encode, reconstruct, draw new ones."""

from training.data.augmentation import random_affine
from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.digits import digits
from training.zoo.nets.vae import VAE

recipe = Recipe(
    name="digits-vae",
    task="image-generation",
    summary="Encodes a handwritten digit in twenty numbers, reconstructs it from them, and draws new ones.",
    intended_use="Teaching, and as a measure of how unusual a digit is. Not for telling digits apart.",
    data=Data(source=digits),
    net=Net(source=VAE, args={"channels": 1, "height": 28, "width": 28, "latent": 20, "hidden": 400}),
    standardize=False,
    augmentation=Augmentation(
        source=random_affine, args={"degrees": 8.0, "scale": 0.1, "shear": 0.1, "translate": 1.0}
    ),
    optimizer=Optimizer(name="AdamW", lr=0.002, args={"weight_decay": 0.0}),
    schedule=LrSchedule(name="cosine", warmup=0.15),
    stop=StopRule(epochs=40),
    ema_decay=0.995,
    batch_size=64,
)

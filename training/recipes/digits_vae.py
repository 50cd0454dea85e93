"""Handwritten digits, black and white, as twenty normal numbers each: encode, reconstruct, draw new ones."""

from training.augment import random_affine
from training.datasets.digits import digits
from training.nets.vae import VAE
from training.recipe import Augment, Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="digits-vae",
    task="image-generation",
    summary="Encodes a handwritten digit in twenty numbers, reconstructs it from them, and draws new ones.",
    use="Teaching, and as a measure of how unusual a digit is. Not for telling digits apart.",
    data=Data(source=digits),
    net=Net(source=VAE, args={"channels": 1, "height": 28, "width": 28, "latent": 20, "hidden": 400}),
    standardise=False,
    augment=Augment(source=random_affine, args={"degrees": 8.0, "scale": 0.1, "shear": 0.1, "translate": 1.0}),
    optimiser=Optimiser(name="AdamW", lr=0.002, args={"weight_decay": 0.0}),
    schedule=Schedule(name="cosine", warmup=0.15),
    stop=Stop(epochs=40),
    ema_decay=0.995,
    batch_rows=64,
)

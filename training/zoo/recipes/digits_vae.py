"""Handwritten digits, black and white, by a VAE with a latent size of 20: encode, reconstruct, generate."""

from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="digits-vae",
    task="image-generation",
    summary="Encodes an image of a handwritten digit in a latent code of size 20, reconstructs it, generates new ones.",
    intended_use="Teaching, and scoring how unusual a digit is. Not for classification.",
    data=Data(source="training.zoo.datasets.digits:digits"),
    net=Net(
        source="training.zoo.nets.vae:VAE",
        args={"in_channels": 1, "height": 28, "width": 28, "latent_size": 20, "hidden_size": 400},
    ),
    standardize=False,
    augmentation=Augmentation(
        source="training.data.augmentation:random_affine",
        args={"degrees": 8.0, "scale": 0.1, "shear": 0.1, "translate": 1.0},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.002, args={"weight_decay": 0.0}),
    schedule=LrSchedule(name="cosine", warmup=0.15),
    stop=StopRule(epochs=40),
    ema_decay=0.995,
    batch_size=64,
)

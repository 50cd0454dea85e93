"""Handwritten digits, 28x28, with a small residual net."""

from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="digits-resnet",
    task="image-classification",
    summary="Classifies an image of one handwritten digit, with a residual net of eight layers.",
    intended_use="One centered digit, light on dark. Not for pages, photographs or several digits at once: see "
    "digits-detect.",
    data=Data(source="training.zoo.datasets.digits:digits"),
    net=Net(
        source="training.zoo.nets.resnet:resnet",
        args={"in_channels": 1, "num_classes": 10, "base_channels": 32, "blocks_per_stage": 1},
    ),
    augmentation=Augmentation(
        source="training.data.augmentation:random_affine",
        args={"degrees": 12.0, "scale": 0.15, "shear": 0.2, "translate": 2.0},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.004, args={"weight_decay": 0.02}),
    schedule=LrSchedule(name="cosine", warmup=0.15),
    stop=StopRule(epochs=25),
    ema_decay=0.995,
    batch_size=128,
)

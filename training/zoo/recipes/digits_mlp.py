"""Handwritten digits, 28x28, with a multi-layer perceptron 784-64-64-10."""

from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="digits-mlp",
    task="image-classification",
    summary="Classifies an image of one handwritten digit, with a multi-layer perceptron.",
    intended_use="Teaching and comparison; digits-cnn is far more accurate on the same images.",
    data=Data(source="training.zoo.datasets.digits:digits"),
    net=Net(
        source="training.zoo.nets.mlp:mlp",
        args={"num_features": 784, "hidden_sizes": [64, 64], "num_classes": 10, "flatten": True},
    ),
    augmentation=Augmentation(
        source="training.data.augmentation:random_affine",
        args={"degrees": 10.0, "scale": 0.12, "shear": 0.15, "translate": 1.5},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.003, args={"weight_decay": 0.02}),
    schedule=LrSchedule(name="cosine", warmup=0.15),
    stop=StopRule(epochs=40),
    ema_decay=0.99,
    batch_size=64,
)

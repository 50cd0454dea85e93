"""One to five handwritten digits on a 96x96 canvas, each with a box and a label."""

from training.recipe.spec import Augmentation, Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="digits-detect",
    task="object-detection",
    summary="Detects the handwritten digits in an image, with a box and a label for each.",
    intended_use="Up to twenty digits, light on dark, a quarter to a half of the image in height. The canvases are "
    "synthetic, so that scores do not carry over to scanned pages.",
    data=Data(source="training.zoo.datasets.scenes:scenes"),
    net=Net(
        source="training.zoo.nets.detector:Detector",
        args={"in_channels": 1, "num_classes": 10, "base_channels": 12, "max_detections": 20},
    ),
    augmentation=Augmentation(source="training.zoo.datasets.scenes:jitter"),
    optimizer=Optimizer(name="AdamW", lr=0.004, args={"weight_decay": 0.02}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=8),
    ema_decay=0.99,
    clip_grad_norm=10.0,
    batch_size=32,
)

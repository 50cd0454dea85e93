"""Chinese reviews, good or bad, by a Transformer encoder over characters and their pairs."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.reviews import reviews
from training.zoo.nets.transformer import transformer_classifier

recipe = Recipe(
    name="sentiment-transformer",
    task="text-classification",
    summary="Tells good from bad Chinese reviews, with a Transformer encoder.",
    intended_use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source=reviews),
    tokenizer=TokenizerConfig(kind="characters", lowercase=True, min_frequency=2, max_tokens=100),
    net=Net(
        source=transformer_classifier,
        args={"width": 64, "heads": 4, "layers": 2, "orders": [1, 2], "buckets": 65536, "dropout": 0.3},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.0015, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=3),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=64,
)

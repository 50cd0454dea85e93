"""Chinese reviews, good or bad, by a Transformer encoder over characters and their pairs."""

from training.datasets.reviews import reviews
from training.nets.transformer import transformer_classifier
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop, Tokens

recipe = Recipe(
    name="sentiment-transformer",
    task="text-classification",
    summary="Tells good from bad Chinese reviews, with a Transformer encoder.",
    use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source=reviews),
    tokens=Tokens(kind="characters", lowercase=True, min_count=2, max_tokens=100),
    net=Net(
        source=transformer_classifier,
        args={"width": 64, "heads": 4, "layers": 2, "orders": [1, 2], "buckets": 65536, "dropout": 0.3},
    ),
    optimiser=Optimiser(name="AdamW", lr=0.0015, args={"weight_decay": 0.1}),
    schedule=Schedule(name="cosine", warmup=0.1),
    stop=Stop(epochs=3),
    ema_decay=0.99,
    clip=1.0,
    batch_rows=64,
)

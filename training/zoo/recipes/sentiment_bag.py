"""Chinese reviews, good or bad, by the mean of what their characters, pairs and triples say."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.reviews import reviews
from training.zoo.nets.bag import bag

recipe = Recipe(
    name="sentiment-bag",
    task="text-classification",
    summary="Tells good from bad Chinese reviews, by a bag of characters, pairs and triples.",
    intended_use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source=reviews),
    tokenizer=TokenizerConfig(kind="characters", lowercase=True, max_tokens=2048),
    net=Net(source=bag, args={"orders": [1, 2, 3], "buckets": 524288, "dim": 8, "dropout": 0.5, "root": True}),
    # A rare n-gram must be seen again before its decay wipes it out: what it says by chance does not stay.
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 1.0}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=5),
    ema_decay=0.99,
    batch_size=128,
)

"""Which of five desks a BBC story is from, by the mean of what its words say."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.news import news
from training.zoo.nets.bag import bag

recipe = Recipe(
    name="topics",
    task="text-classification",
    summary="Names the topic of an English news story: business, entertainment, politics, sport or tech.",
    intended_use="British news of 2004 and 2005; for research only, as the licence of its stories says.",
    data=Data(source=news),
    tokenizer=TokenizerConfig(kind="words", lowercase=True, vocab_size=32768, min_frequency=2, max_tokens=8192),
    net=Net(source=bag, args={"orders": [1], "buckets": 0, "dim": 64, "dropout": 0.5, "weighted": True}),
    optimizer=Optimizer(name="AdamW", lr=0.02, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=25),
    ema_decay=0.99,
    batch_size=64,
)

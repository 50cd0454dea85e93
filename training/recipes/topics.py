"""Which of five desks a BBC story is from, by the mean of what its words say."""

from training.datasets.news import news
from training.nets.bag import bag
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop, Tokens

recipe = Recipe(
    name="topics",
    task="text-classification",
    summary="Names the topic of an English news story: business, entertainment, politics, sport or tech.",
    use="British news of 2004 and 2005; for research only, as the licence of its stories says.",
    data=Data(source=news),
    tokens=Tokens(kind="words", lowercase=True, vocabulary=32768, min_count=2, max_tokens=8192),
    net=Net(source=bag, args={"orders": [1], "buckets": 0, "dim": 64, "dropout": 0.5, "weighted": True}),
    optimiser=Optimiser(name="AdamW", lr=0.02, args={"weight_decay": 0.1}),
    schedule=Schedule(name="cosine", warmup=0.05),
    stop=Stop(epochs=25),
    ema_decay=0.99,
    batch_rows=64,
)

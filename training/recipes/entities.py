"""Persons, places and organisations in Chinese newspaper text."""

from training.datasets.people_daily import people_daily
from training.nets.tagger import tagger
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop, Tokens

recipe = Recipe(
    name="entities",
    task="token-classification",
    summary="Finds persons, places and organisations in Chinese newspaper text.",
    use="Chinese newspaper text of 1998. Names of today, and of other kinds of text, are found less often.",
    data=Data(source=people_daily),
    tokens=Tokens(kind="characters", min_count=2, max_tokens=1024),
    net=Net(
        source=tagger,
        args={
            "dim": 64,
            "pair_buckets": 262144,
            "pair_dim": 16,
            "pair_dropout": 0.2,
            "cell": "lstm",
            "width": 128,
            "dropout": 0.3,
            "unknown": 0.02,
        },
    ),
    optimiser=Optimiser(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=Schedule(name="cosine", warmup=0.1),
    stop=Stop(epochs=8),
    ema_decay=0.99,
    clip=1.0,
    batch_rows=64,
)

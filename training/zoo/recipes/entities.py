"""Persons, places and organisations in Chinese newspaper text."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.people_daily import people_daily
from training.zoo.nets.tagger import tagger

recipe = Recipe(
    name="entities",
    task="token-classification",
    summary="Finds persons, places and organisations in Chinese newspaper text.",
    intended_use="Chinese newspaper text of 1998. Names of today, and of other kinds of text, are found less often.",
    data=Data(source=people_daily),
    tokenizer=TokenizerConfig(kind="characters", min_frequency=2, max_tokens=1024),
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
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=8),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=64,
)

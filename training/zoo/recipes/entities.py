"""Persons, locations and organizations in Chinese newspaper text."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig

recipe = Recipe(
    name="entities",
    task="token-classification",
    summary="Finds persons, locations and organizations in Chinese newspaper text.",
    intended_use="Chinese newspaper text of 1998. Recall is lower on recent names and on other genres.",
    data=Data(source="training.zoo.datasets.people_daily:people_daily"),
    tokenizer=TokenizerConfig(kind="characters", min_frequency=2, max_tokens=1024),
    net=Net(
        source="training.zoo.nets.tagger:tagger",
        args={
            "embedding_dim": 64,
            "num_bigram_buckets": 262144,
            "bigram_embedding_dim": 16,
            "bigram_dropout": 0.2,
            "cell_type": "lstm",
            "hidden_size": 128,
            "dropout": 0.3,
            "word_dropout": 0.02,
        },
    ),
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=8),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=64,
)

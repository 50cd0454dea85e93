"""Semantic roles of one marked verb, in synthetic English sentences."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig

recipe = Recipe(
    name="roles",
    task="token-classification",
    summary="Labels the semantic roles of a marked verb; trained on SYNTHETIC sentences.",
    intended_use="Teaching. The sentences are synthetic: a score measures how well the grammar was learned, and says "
    "nothing about real text.",
    data=Data(source="training.zoo.datasets.roles:roles"),
    tokenizer=TokenizerConfig(kind="words", max_tokens=128),
    net=Net(
        source="training.zoo.nets.tagger:tagger",
        args={"embedding_dim": 64, "hidden_size": 96, "num_layers": 2, "dropout": 0.2, "word_dropout": 0.15},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.003, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=5),
    clip_grad_norm=1.0,
    batch_size=32,
)

"""Chinese reviews, positive or negative, with a Transformer encoder over characters and character bigrams."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig

recipe = Recipe(
    name="sentiment-transformer",
    task="text-classification",
    summary="Classifies Chinese reviews as positive or negative, with a Transformer encoder.",
    intended_use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source="training.zoo.datasets.reviews:reviews"),
    tokenizer=TokenizerConfig(kind="characters", lowercase=True, min_frequency=2, max_tokens=100),
    net=Net(
        source="training.zoo.nets.transformer:transformer_classifier",
        args={
            "hidden_size": 64,
            "num_heads": 4,
            "num_layers": 2,
            "ngram_orders": [1, 2],
            "num_buckets": 65536,
            "dropout": 0.3,
        },
    ),
    optimizer=Optimizer(name="AdamW", lr=0.0015, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=3),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=64,
)

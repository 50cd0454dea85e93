"""Chinese reviews, positive or negative, with a bag of character 1- to 3-grams."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig

recipe = Recipe(
    name="sentiment-bag",
    task="text-classification",
    summary="Classifies Chinese reviews as positive or negative, with a bag of character n-grams.",
    intended_use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source="training.zoo.datasets.reviews:reviews"),
    tokenizer=TokenizerConfig(kind="characters", lowercase=True, max_tokens=2048),
    net=Net(
        source="training.zoo.nets.bag_of_ngrams:bag_of_ngrams",
        args={
            "ngram_orders": [1, 2, 3],
            "num_buckets": 524288,
            "embedding_dim": 8,
            "ngram_dropout": 0.5,
            "combiner": "sqrtn",
        },
    ),
    # Strong weight decay: a rare n-gram that does not recur decays to zero, which removes chance correlations.
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 1.0}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=5),
    ema_decay=0.99,
    batch_size=128,
)

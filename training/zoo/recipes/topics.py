"""Topics of BBC news stories, with a bag of n-grams of words, averaged with learned weights."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig

recipe = Recipe(
    name="topics",
    task="text-classification",
    summary="Classifies the topic of an English news story: business, entertainment, politics, sports or tech.",
    intended_use="British news of 2004 and 2005; for research only, as the license of its stories says.",
    data=Data(source="training.zoo.datasets.news:news"),
    tokenizer=TokenizerConfig(kind="words", lowercase=True, vocab_size=32768, min_frequency=2, max_tokens=8192),
    net=Net(
        source="training.zoo.nets.bag_of_ngrams:bag_of_ngrams",
        args={
            "ngram_orders": [1],
            "num_buckets": 0,
            "embedding_dim": 64,
            "ngram_dropout": 0.5,
            "attention_pooling": True,
        },
    ),
    optimizer=Optimizer(name="AdamW", lr=0.02, args={"weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=25),
    ema_decay=0.99,
    batch_size=64,
)

"""Chinese reviews, positive or negative, with a plain RNN: the baseline of the other nets."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig

recipe = Recipe(
    name="sentiment-rnn",
    task="text-classification",
    summary="Classifies Chinese reviews as positive or negative, with a plain RNN.",
    intended_use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source="training.zoo.datasets.reviews:reviews"),
    tokenizer=TokenizerConfig(kind="characters", lowercase=True, min_frequency=2, max_tokens=100),
    net=Net(
        source="training.zoo.nets.recurrent:rnn_text_classifier",
        args={"cell_type": "rnn", "embedding_dim": 64, "hidden_size": 64, "dropout": 0.3},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.002, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=5),
    clip_grad_norm=1.0,
    batch_size=64,
)

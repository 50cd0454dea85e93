"""Chinese reviews, good or bad, by an LSTM that reads both ways."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.reviews import reviews
from training.zoo.nets.recurrent import recurrent_classifier

recipe = Recipe(
    name="sentiment-lstm",
    task="text-classification",
    summary="Tells good from bad Chinese reviews, with a bidirectional LSTM.",
    intended_use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source=reviews),
    tokenizer=TokenizerConfig(kind="characters", lowercase=True, min_frequency=2, max_tokens=120),
    net=Net(source=recurrent_classifier, args={"cell": "lstm", "dim": 96, "width": 64, "dropout": 0.4}),
    optimizer=Optimizer(name="AdamW", lr=0.004, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=7),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=64,
)

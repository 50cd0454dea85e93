"""Chinese reviews, good or bad, by a plain recurrent net: the oldest one, to see what the others gain."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.reviews import reviews
from training.zoo.nets.recurrent import recurrent_classifier

recipe = Recipe(
    name="sentiment-rnn",
    task="text-classification",
    summary="Tells good from bad Chinese reviews, with a plain recurrent net.",
    intended_use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source=reviews),
    tokenizer=TokenizerConfig(kind="characters", lowercase=True, min_frequency=2, max_tokens=100),
    net=Net(source=recurrent_classifier, args={"cell": "rnn", "dim": 64, "width": 64, "dropout": 0.3}),
    optimizer=Optimizer(name="AdamW", lr=0.002, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=5),
    clip_grad_norm=1.0,
    batch_size=64,
)

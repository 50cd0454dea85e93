"""Chinese reviews, good or bad, by an LSTM that reads both ways."""

from training.datasets.reviews import reviews
from training.nets.recurrent import recurrent_classifier
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop, Tokens

recipe = Recipe(
    name="sentiment-lstm",
    task="text-classification",
    summary="Tells good from bad Chinese reviews, with a bidirectional LSTM.",
    use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source=reviews),
    tokens=Tokens(kind="characters", lowercase=True, min_count=2, max_tokens=120),
    net=Net(source=recurrent_classifier, args={"cell": "lstm", "dim": 96, "width": 64, "dropout": 0.4}),
    optimiser=Optimiser(name="AdamW", lr=0.004, args={"weight_decay": 0.01}),
    schedule=Schedule(name="cosine", warmup=0.05),
    stop=Stop(epochs=7),
    ema_decay=0.99,
    clip=1.0,
    batch_rows=64,
)

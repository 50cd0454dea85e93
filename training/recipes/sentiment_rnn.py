"""Chinese reviews, good or bad, by a plain recurrent net: the oldest one, to see what the others gain."""

from training.datasets.reviews import reviews
from training.nets.recurrent import recurrent_classifier
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop, Tokens

recipe = Recipe(
    name="sentiment-rnn",
    task="text-classification",
    summary="Tells good from bad Chinese reviews, with a plain recurrent net.",
    use="Chinese reviews of goods and hotels, with noisy labels and unknown writers. Not for judging people.",
    data=Data(source=reviews),
    tokens=Tokens(kind="characters", lowercase=True, min_count=2, max_tokens=100),
    net=Net(source=recurrent_classifier, args={"cell": "rnn", "dim": 64, "width": 64, "dropout": 0.3}),
    optimiser=Optimiser(name="AdamW", lr=0.002, args={"weight_decay": 0.01}),
    schedule=Schedule(name="cosine", warmup=0.05),
    stop=Stop(epochs=5),
    clip=1.0,
    batch_rows=64,
)

"""Nine speakers, told apart by how they say two vowels: sequences of unequal length."""

from training.datasets.speech import speaker
from training.nets.recurrent import sequence_classifier
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop

recipe = Recipe(
    name="speaker",
    task="audio-classification",
    summary="Names the speaker from the twelve LPC cepstra of each moment of two spoken vowels.",
    use="Teaching. Nine men and one word; recordings of a man stand on both sides of the split.",
    data=Data(source=speaker),
    net=Net(source=sequence_classifier, args={"cell": "gru", "width": 64, "dropout": 0.3}),
    optimiser=Optimiser(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=Schedule(name="cosine"),
    stop=Stop(epochs=25),
    ema_decay=0.99,
    clip=1.0,
    batch_rows=32,
)

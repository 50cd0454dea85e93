"""Nine speakers, told apart by how they say two vowels: sequences of unequal length."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.zoo.datasets.speech import speaker
from training.zoo.nets.recurrent import sequence_classifier

recipe = Recipe(
    name="speaker",
    task="audio-classification",
    summary="Names the speaker from the twelve LPC cepstra of each moment of two spoken vowels.",
    intended_use="Teaching. Nine men and one word; recordings of a man stand on both sides of the split.",
    data=Data(source=speaker),
    net=Net(source=sequence_classifier, args={"cell": "gru", "width": 64, "dropout": 0.3}),
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=25),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=32,
)

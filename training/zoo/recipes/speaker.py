"""Nine speakers, identified by two spoken vowels: series of different lengths."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule

recipe = Recipe(
    name="speaker",
    task="audio-classification",
    summary="Identifies the speaker of two vowels from a series of twelve LPC cepstra.",
    intended_use="Teaching. Nine men and two vowels; every speaker is in the training and the test split.",
    data=Data(source="training.zoo.datasets.speech:speaker"),
    net=Net(
        source="training.zoo.nets.recurrent:rnn_series_classifier",
        args={"cell_type": "gru", "hidden_size": 64, "dropout": 0.3},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.005, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine"),
    stop=StopRule(epochs=25),
    ema_decay=0.99,
    clip_grad_norm=1.0,
    batch_size=32,
)

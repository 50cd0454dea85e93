"""Shakespeare's plays, token by token, by a decoder-only Transformer."""

from training.datasets.shakespeare import shakespeare
from training.nets.gpt import gpt
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop, Tokens

recipe = Recipe(
    name="shakespeare-gpt",
    task="text-generation",
    summary="Continues a text in the manner of Shakespeare's plays, with a decoder-only Transformer.",
    use="Play. What it writes has the plays' layout and vocabulary, and no sense; it knows nothing of today.",
    data=Data(source=shakespeare, validation_fraction=0.08),
    tokens=Tokens(kind="bpe", vocabulary=2048, max_tokens=64),
    net=Net(source=gpt, args={"context": 64, "width": 128, "layers": 4, "heads": 4, "dropout": 0.0}),
    optimiser=Optimiser(name="AdamW", lr=0.003, args={"betas": [0.9, 0.95], "weight_decay": 0.1}),
    schedule=Schedule(name="cosine", warmup=0.05),
    stop=Stop(epochs=2),
    clip=1.0,
    batch_rows=24,
)

"""Who did what to whom, in generated (synthetic) English sentences, one verb of each marked."""

from training.datasets.roles import roles
from training.nets.tagger import tagger
from training.recipe import Data, Net, Optimiser, Recipe, Schedule, Stop, Tokens

recipe = Recipe(
    name="roles",
    task="token-classification",
    summary="Finds the semantic roles of a marked verb; trained on GENERATED sentences.",
    use="Teaching. Its sentences are generated: a score says how well the grammar was learnt, nothing of real text.",
    data=Data(source=roles),
    tokens=Tokens(kind="words", max_tokens=128),
    net=Net(source=tagger, args={"dim": 64, "width": 96, "layers": 2, "dropout": 0.2, "unknown": 0.15}),
    optimiser=Optimiser(name="AdamW", lr=0.003, args={"weight_decay": 0.01}),
    schedule=Schedule(name="cosine", warmup=0.1),
    stop=Stop(epochs=5),
    clip=1.0,
    batch_rows=32,
)

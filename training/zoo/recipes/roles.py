"""Who did what to whom, in generated (synthetic) English sentences, one verb of each marked."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.roles import roles
from training.zoo.nets.tagger import tagger

recipe = Recipe(
    name="roles",
    task="token-classification",
    summary="Finds the semantic roles of a marked verb; trained on GENERATED sentences.",
    intended_use="Teaching. Its sentences are generated: a score says how well the grammar was learnt, nothing of real text.",
    data=Data(source=roles),
    tokenizer=TokenizerConfig(kind="words", max_tokens=128),
    net=Net(source=tagger, args={"dim": 64, "width": 96, "layers": 2, "dropout": 0.2, "unknown": 0.15}),
    optimizer=Optimizer(name="AdamW", lr=0.003, args={"weight_decay": 0.01}),
    schedule=LrSchedule(name="cosine", warmup=0.1),
    stop=StopRule(epochs=5),
    clip_grad_norm=1.0,
    batch_size=32,
)

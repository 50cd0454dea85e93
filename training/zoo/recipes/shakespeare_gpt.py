"""Shakespeare's plays, token by token, by a decoder-only Transformer."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.datasets.shakespeare import shakespeare
from training.zoo.nets.gpt import gpt

recipe = Recipe(
    name="shakespeare-gpt",
    task="text-generation",
    summary="Continues a text in the manner of Shakespeare's plays, with a decoder-only Transformer.",
    intended_use="Play. What it writes has the plays' layout and vocabulary, and no sense; it knows nothing of today.",
    data=Data(source=shakespeare, validation_fraction=0.08),
    tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_tokens=64),
    net=Net(source=gpt, args={"context": 64, "width": 128, "layers": 4, "heads": 4, "dropout": 0.0}),
    optimizer=Optimizer(name="AdamW", lr=0.003, args={"betas": [0.9, 0.95], "weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=2),
    clip_grad_norm=1.0,
    batch_size=24,
)

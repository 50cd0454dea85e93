"""Language model of Shakespeare's plays: an LSTM."""

from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule, TokenizerConfig

recipe = Recipe(
    name="shakespeare-lstm",
    task="text-generation",
    summary="Continues a text in the style of Shakespeare's plays, with an LSTM.",
    intended_use="Demonstration. Generated text has the plays' layout and vocabulary, but no meaning and no facts.",
    data=Data(source="training.zoo.datasets.shakespeare:shakespeare", validation_fraction=0.08),
    tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_tokens=64),
    net=Net(
        source="training.zoo.nets.language_lstm:language_lstm",
        args={"hidden_size": 384, "num_layers": 1, "embedding_dim": 128, "dropout": 0.0, "tie_weights": True},
    ),
    optimizer=Optimizer(name="AdamW", lr=0.004, args={"betas": [0.9, 0.95], "weight_decay": 0.1}),
    schedule=LrSchedule(name="cosine", warmup=0.05),
    stop=StopRule(epochs=2),
    clip_grad_norm=1.0,
    batch_size=24,
)

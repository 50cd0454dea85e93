"""Image generation by an autoencoder: a picture is its own target."""
# Shapes: B pictures of a batch, Z latent numbers; facts are the negative ELBO and its two terms, in nats.

import torch
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, encode_inputs
from training.schema import ImageOutput
from training.tasks.base import Outputs, Task
from training.tasks.elbo import elbo_terms


class ImageGeneration(Task):
    """The evidence lower bound (Kingma, Welling, 2014), one sample of the code for each picture."""

    metric = "negative_elbo"
    higher_is_better = False
    outputs = ("reconstruction", "mean", "log_variance")

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Targets are the inputs."""
        inputs, lengths, _ = encode_inputs(self.preprocessing, dataset)
        return EncodedRows(inputs, inputs, lengths)

    def default_loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """Negative ELBO."""
        reconstruction_B, divergence_B = elbo_terms(output, batch.inputs)  # type: ignore[arg-type]
        return (reconstruction_B + divergence_B).mean()

    def eval_outputs(self, net: nn.Module, output: Outputs, batch: EncodedRows) -> Tensor:
        """The negative ELBO, its reconstruction term and its divergence."""
        # The same noise for every batch and every run: two nets are compared on equal terms.
        sampled = net.sampled(batch.inputs, torch.Generator().manual_seed(0))  # type: ignore[operator]
        reconstruction_B, divergence_B = elbo_terms(sampled, batch.inputs)
        return torch.stack([reconstruction_B + divergence_B, reconstruction_B, divergence_B], 1).float()

    def validation_metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """Means over the pictures, in nats."""
        elbo, reconstruction, divergence = facts_NK.double().mean(0).tolist()
        return {"negative_elbo": elbo, "reconstruction": reconstruction, "divergence": divergence}

    def output_schema(self) -> ImageOutput:
        """A picture and its code."""
        return ImageOutput(latent_size=int(str(self.recipe.net.args["latent"])))

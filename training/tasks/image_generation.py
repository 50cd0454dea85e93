"""Image generation by a variational autoencoder: an image is its own target."""
# Shapes: N images of a split, B images of a batch; eval outputs K = 3: the negative ELBO and its two terms, in nats.

import torch
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, encode_inputs
from training.schema import ImageOutput
from training.tasks.base import NetOutput, Task
from training.tasks.elbo_loss import elbo_loss, elbo_terms


class ImageGeneration(Task):
    """The evidence lower bound (Kingma, Welling, 2014), from one latent sample per image."""

    primary_metric = "negative_elbo"
    higher_is_better = False
    output_names = ("reconstruction", "mean", "log_variance")

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Encode images; the targets are the inputs."""
        inputs, lengths, _ = encode_inputs(self.preprocessing, dataset)
        return EncodedRows(inputs, inputs, lengths)

    def default_loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Negative ELBO, mean over the images."""
        return elbo_loss(output, batch.inputs)  # type: ignore[arg-type]

    def eval_outputs(self, net: nn.Module, output: NetOutput, batch: EncodedRows) -> Tensor:
        """The negative ELBO, its reconstruction term and its divergence."""
        # The same noise for every batch and every run, so that two nets are compared on the same samples.
        generator = torch.Generator().manual_seed(0)
        sampled = net.reconstruct_from_sample(batch.inputs, generator)  # type: ignore[operator]
        reconstruction_B, divergence_B = elbo_terms(sampled, batch.inputs)
        return torch.stack([reconstruction_B + divergence_B, reconstruction_B, divergence_B], 1).float()

    def validation_metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """Means over the images, in nats."""
        elbo, reconstruction, divergence = eval_outputs_NK.double().mean(0).tolist()
        return {"negative_elbo": elbo, "reconstruction": reconstruction, "divergence": divergence}

    def output_schema(self) -> ImageOutput:
        """An image and its latent code."""
        return ImageOutput(latent_size=int(str(self.recipe.net.args["latent_size"])))

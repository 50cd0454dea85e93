"""Loss of a variational autoencoder with Bernoulli pixels: the evidence lower bound (Kingma, Welling, 2014)."""
# Shapes: B images of a batch, K channels, H height, W width, Z latent size.

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

VAEOutput = tuple[Tensor, Tensor, Tensor]
"""Pixels (B, K, H, W), and mean (B, Z) and log-variance (B, Z) of the latent code."""

WHITE_THRESHOLD = 128


def binarize(x: Tensor) -> Tensor:
    """1.0 where a pixel, 0 to 255, is at least `WHITE_THRESHOLD`, else 0.0; float32, same shape."""
    return (x >= WHITE_THRESHOLD).to(torch.float32)


def elbo_loss(output: VAEOutput, x: Tensor) -> Tensor:
    """Negative evidence lower bound in nats per image, mean over the batch; see `elbo_terms`."""
    reconstruction_B, divergence_B = elbo_terms(output, x)
    return (reconstruction_B + divergence_B).mean()


def elbo_terms(output: VAEOutput, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of each image's negative ELBO, in nats: -log p(x | z), and KL(q(z | x) || N(0, 1)).

    Args:
        output: of the net in training, or of `VAE.reconstruct_from_sample`: pixel logits, mean, log-variance.
        x: the input images, (B, K, H, W), 0 to 255.

    Returns:
        Two tensors of shape (B,).
    """
    # In float32 under autocast too: a bf16 sum over hundreds of pixels would lose most of its digits.
    logits, mean_BZ, log_variance_BZ = (tensor.float() for tensor in output)
    reconstruction_B = binary_cross_entropy_with_logits(logits, binarize(x), reduction="none").flatten(1).sum(1)
    divergence_B = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(1)
    return reconstruction_B, divergence_B

"""The evidence lower bound (Kingma, Welling, 2014) of a variational autoencoder with Bernoulli pixels."""
# Shapes: B rows, K channels, H height, W width, Z latent numbers.

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

Output = tuple[Tensor, Tensor, Tensor]
"""Pixels (B, K, H, W), and mean (B, Z) and log-variance (B, Z) of the latent numbers."""

WHITE = 128


def binarize(x: Tensor) -> Tensor:
    """1.0 where a pixel of 0 to 255 is white, else 0.0; float32, same shape."""
    return (x >= WHITE).to(torch.float32)


def elbo_loss(output: Output, x: Tensor) -> Tensor:
    """Negative evidence lower bound in nats per picture, mean over rows; see `elbo_terms`."""
    reconstruction_B, divergence_B = elbo_terms(output, x)
    return (reconstruction_B + divergence_B).mean()


def elbo_terms(output: Output, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of the negative ELBO of each picture, in nats: -log p(x | z), and KL(q(z | x) || N(0, 1)).

    Args:
        output: what the net gives in training, or `VAE.sampled`: logits of pixels, mean, log-variance.
        x: the pictures that went in, (B, K, H, W), 0 to 255.

    Returns:
        Two tensors of shape (B,).
    """
    # A sum of hundreds of pixels wants float32, whatever the net was computed in.
    logits, mean_BZ, log_variance_BZ = (part.float() for part in output)
    reconstruction = binary_cross_entropy_with_logits(logits, binarize(x), reduction="none").flatten(1).sum(1)
    divergence = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(1)
    return reconstruction, divergence

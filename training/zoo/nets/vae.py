"""Variational autoencoder (Kingma, Welling, 2014) of black-and-white pictures: a picture as a few normal numbers."""
# Shapes: B rows, K channels, H height, W width, Z latent numbers.

import torch
from torch import Tensor, nn

from training.tasks.elbo import Output, binarize


class VAE(nn.Module):
    """Gaussian encoder and Bernoulli decoder of two hidden layers each, with SiLU where the paper has tanh.

    Input (B, K, H, W) of any number type, 0 to 255; a pixel of 128 or more is white. Do not standardise it before.
    """

    def __init__(self, channels: int, height: int, width: int, latent: int, hidden: int) -> None:
        super().__init__()
        pixels = channels * height * width
        self.encoder = nn.Sequential(nn.Flatten(), *_hidden(pixels, hidden), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(
            *_hidden(latent, hidden), nn.Linear(hidden, pixels), nn.Unflatten(1, (channels, height, width))
        )

    def forward(self, x: Tensor) -> Output:
        """In training, logits of pixels decoded from one sample; else their probabilities, decoded from the mean."""
        if self.training:
            return self.sampled(x)
        mean_BZ, log_variance_BZ = self.encode(x)
        return self.decode(mean_BZ), mean_BZ, log_variance_BZ

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, Z), of q(z | x)."""
        mean_BZ, log_variance_BZ = self.encoder(binarize(x)).chunk(2, dim=1)
        return mean_BZ, log_variance_BZ

    def sampled(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        """Logits of pixels decoded from z = mean + deviation * noise, through which gradients pass."""
        mean_BZ, log_variance_BZ = self.encode(x)
        noise_BZ = torch.randn(mean_BZ.shape, generator=generator, dtype=torch.float32).to(mean_BZ.device)
        z_BZ = mean_BZ + (0.5 * log_variance_BZ).exp() * noise_BZ
        return self.decoder(z_BZ), mean_BZ, log_variance_BZ

    def decode(self, z_BZ: Tensor) -> Tensor:
        """Probabilities that pixels are white, (B, K, H, W); z drawn from N(0, 1) makes new pictures."""
        return torch.sigmoid(self.decoder(z_BZ))


def _hidden(wide: int, narrow: int) -> tuple[nn.Module, ...]:
    return nn.Linear(wide, narrow), nn.SiLU(), nn.Linear(narrow, narrow), nn.SiLU()

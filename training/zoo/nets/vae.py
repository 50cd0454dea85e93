"""Variational autoencoder (Kingma, Welling, 2014) of black-and-white images."""
# Shapes: B rows, K channels, H height, W width, Z latent size.

import torch
from torch import Tensor, nn

from training.tasks.elbo_loss import VAEOutput, binarize


class VAE(nn.Module):
    """Gaussian encoder and Bernoulli decoder of two hidden layers each, with SiLU where the paper has tanh.

    Input (B, K, H, W) of any number type, 0 to 255; a pixel of 128 or more is white. Set `standardize=False` in the
    recipe: a standardized input would lose that threshold.
    """

    def __init__(self, in_channels: int, height: int, width: int, latent_size: int, hidden_size: int) -> None:
        super().__init__()
        num_pixels = in_channels * height * width
        self.encoder = nn.Sequential(
            nn.Flatten(), *_hidden_layers(num_pixels, hidden_size), nn.Linear(hidden_size, 2 * latent_size)
        )
        self.decoder = nn.Sequential(
            *_hidden_layers(latent_size, hidden_size),
            nn.Linear(hidden_size, num_pixels),
            nn.Unflatten(1, (in_channels, height, width)),
        )

    def forward(self, x: Tensor) -> VAEOutput:
        """In training, pixel logits decoded from one sample; in evaluation, probabilities decoded from the mean."""
        if self.training:
            return self.reconstruct_from_sample(x)
        mean_BZ, log_variance_BZ = self.encode(x)
        return self.decode(mean_BZ), mean_BZ, log_variance_BZ

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, Z), of q(z | x)."""
        mean_BZ, log_variance_BZ = self.encoder(binarize(x)).chunk(2, dim=1)
        return mean_BZ, log_variance_BZ

    def reconstruct_from_sample(self, x: Tensor, generator: torch.Generator | None = None) -> VAEOutput:
        """Pixel logits decoded from z = mean + std * noise (reparameterization trick), then mean and log-variance."""
        mean_BZ, log_variance_BZ = self.encode(x)
        noise_BZ = torch.randn(mean_BZ.shape, generator=generator, dtype=torch.float32).to(mean_BZ.device)
        z_BZ = mean_BZ + (0.5 * log_variance_BZ).exp() * noise_BZ
        return self.decoder(z_BZ), mean_BZ, log_variance_BZ

    def decode(self, z_BZ: Tensor) -> Tensor:
        """Probabilities that pixels are white, (B, K, H, W); z drawn from N(0, 1) generates new images."""
        return torch.sigmoid(self.decoder(z_BZ))


def _hidden_layers(input_size: int, hidden_size: int) -> tuple[nn.Module, ...]:
    return nn.Linear(input_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size), nn.SiLU()

import math

import pytest
import torch

from tests.training.tasks.small_tasks import build_table, make_task
from training.data.preprocessing import EncodedRows
from training.tasks.elbo_loss import elbo_loss, elbo_terms
from training.zoo.nets.vae import VAE


def test_uninformative_outputs_cost_one_bit_per_pixel() -> None:
    x = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    output = (torch.zeros(2, 1, 4, 4), torch.zeros(2, 3), torch.zeros(2, 3))

    reconstruction_B, divergence_B = elbo_terms(output, x)

    assert reconstruction_B.tolist() == pytest.approx([16 * math.log(2)] * 2)
    assert divergence_B.tolist() == [0.0, 0.0]
    assert elbo_loss(output, x).item() == pytest.approx(16 * math.log(2))


def test_the_divergence_is_that_of_torch() -> None:
    mean_BZ, log_variance_BZ = torch.randn(2, 3), torch.randn(2, 3)

    _, divergence_B = elbo_terms((torch.zeros(2, 1, 4, 4), mean_BZ, log_variance_BZ), torch.zeros(2, 1, 4, 4))

    q = torch.distributions.Normal(mean_BZ, (0.5 * log_variance_BZ).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(divergence_B, expected, atol=1e-6)


def test_every_evaluation_samples_the_same_noise() -> None:
    task = make_task("image-generation", build_table(torch.zeros(2), ()), net_args={"latent_size": 3})
    net = VAE(in_channels=1, height=4, width=4, latent_size=3, hidden_size=8).eval()
    batch = EncodedRows(torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8), torch.zeros(2))

    first, again = (task.eval_outputs(net, net(batch.inputs), batch) for _ in range(2))

    assert torch.equal(first, again)
    assert task.metrics(first)["negative_elbo"] == pytest.approx(first[:, 1:].sum(1).mean().item())

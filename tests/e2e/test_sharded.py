"""A sharded net (FSDP2) on a real cluster: trained by two workers, published unsharded, loaded and evaluated."""

import pytest
import torch

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.conftest import ShoalCli, parse_published
from training.bundle.load import load_bundle
from training.data.preprocessing import prepare_dataset
from training.recipe.load import load_recipe
from training.registry.model_registry import Registry


@pytest.mark.soak
def test_a_sharded_net_is_published_unsharded_and_scores_as_its_card_says(
    shoal: ShoalCli, cluster: Cluster, settings: Settings
) -> None:
    # A moving average of the weights does not work with sharded ones.
    overrides = ("parallel=fsdp", "name=iris-sharded", "ema_decay=null", "stop.epochs=8")

    result = shoal("train", "iris", "--workers", "2", *(word for override in overrides for word in ("--set", override)))

    assert result.returncode == 0, result.stderr
    registry = Registry(settings)
    version = registry.resolve(parse_published(result))
    metrics = registry.load_manifest(version).metrics
    assert metrics["test_accuracy"] > 0.8
    dataset, splits, _ = prepare_dataset(load_recipe("iris"))
    test_rows = dataset.select(splits["test"])
    with torch.inference_mode():
        y_NC = load_bundle(registry.fetch_bundle(version)).net(test_rows.inputs)
    accuracy = (y_NC.argmax(1) == test_rows.targets).float().mean().item()
    assert abs(accuracy - metrics["test_accuracy"]) < 1e-6

"""A sharded net (FSDP2) on a real cluster: trained by two workers, published whole, loaded and scored."""

import torch

from cluster.local.record import Cluster
from cluster.settings import Settings
from tests.conftest import Shoal, published
from training.bundle.load import load_bundle
from training.data.preprocessing import prepare_dataset
from training.recipe.load import load_recipe
from training.registry.model_registry import Registry


def test_a_sharded_net_is_published_whole_and_scores_as_its_card_says(
    shoal: Shoal, cluster: Cluster, settings: Settings
) -> None:
    # An average of the weights goes not with sharded ones.
    changes = ("parallel=fsdp", "name=iris-sharded", "ema_decay=null", "stop.epochs=8")

    done = shoal("train", "iris", "--workers", "2", *(word for change in changes for word in ("--set", change)))

    assert done.returncode == 0, done.stderr
    registry = Registry(settings)
    version = registry.resolve(published(done))
    metrics = registry.load_manifest(version).metrics
    assert metrics["test_accuracy"] > 0.8
    dataset, parts, _ = prepare_dataset(load_recipe("iris"))
    test = dataset.select(parts["test"])
    with torch.inference_mode():
        y_NC = load_bundle(registry.fetch_bundle(version)).net(test.inputs)
    accuracy = (y_NC.argmax(1) == test.targets).float().mean().item()
    assert abs(accuracy - metrics["test_accuracy"]) < 1e-6

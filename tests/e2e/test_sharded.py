"""A sharded net (FSDP2) on a real cluster: trained by two workers, published whole, loaded and scored."""

import torch

from cluster.lifecycle import Cluster
from cluster.settings import Settings
from tests.conftest import Shoal, published
from training import bundle, prepare
from training.recipe import load_recipe
from training.registry import Registry


def test_a_sharded_net_is_published_whole_and_scores_as_its_card_says(
    shoal: Shoal, cluster: Cluster, settings: Settings
) -> None:
    # An average of the weights goes not with sharded ones.
    changes = ("parallel=fsdp", "name=iris-sharded", "ema_decay=null", "stop.epochs=8")

    done = shoal("train", "iris", "--workers", "2", *(word for change in changes for word in ("--set", change)))

    assert done.returncode == 0, done.stderr
    registry = Registry(settings)
    version = registry.resolve(published(done))
    metrics = registry.manifest(version).metrics
    assert metrics["test_accuracy"] > 0.8
    dataset, parts, _ = prepare.load(load_recipe("iris"))
    test = dataset.select(parts["test"])
    with torch.inference_mode():
        y_NC = bundle.load(registry.fetch(version)).net(test.inputs)
    accuracy = (y_NC.argmax(1) == test.targets).float().mean().item()
    assert abs(accuracy - metrics["test_accuracy"]) < 1e-6

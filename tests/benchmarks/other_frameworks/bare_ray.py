"""Bare Ray as documented: an application that imports nothing, one that imports torch, and a TorchTrainer.

waits.py deploys the two applications; run as a script, this file trains: two workers, one epoch of iris.
"""

import os
import sys

from ray import serve


@serve.deployment
class Echo:
    """Responds with a constant."""

    async def __call__(self, request: object) -> str:
        return "ok"


@serve.deployment
class Net:
    """Responds with a net's output."""

    def __init__(self) -> None:
        import torch

        self.net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))

    async def __call__(self, request: object) -> list[float]:
        import torch

        with torch.inference_mode():
            return self.net(torch.rand(1, 4))[0].tolist()


echo, net = Echo.bind(), Net.bind()


def train_worker(config: dict[str, object]) -> None:
    """Train one epoch of iris with DDP."""
    import ray.train
    import ray.train.torch
    import torch
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    rows = torch.utils.data.TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    loader = ray.train.torch.prepare_data_loader(torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True))
    model = torch.nn.Sequential(torch.nn.Linear(4, 128), torch.nn.ReLU(), torch.nn.Linear(128, 3))
    model = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for inputs, labels in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    ray.train.report({"done": True})


def main(storage: str) -> None:
    """Train on the cluster that RAY_ADDRESS names."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    TorchTrainer(
        train_worker,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="bare", storage_path=storage),
    ).fit()


if __name__ == "__main__":
    main(sys.argv[1])

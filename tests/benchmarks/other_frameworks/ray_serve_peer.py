"""Ray Serve as its documentation shows it: a FastAPI ingress that calls a batching model deployment by handle."""

import signal
import sys
from typing import Any

import ray
import torch
from fastapi import FastAPI
from mlp import build
from pydantic import BaseModel
from ray import serve

app = FastAPI()


class Request(BaseModel):
    inputs: list[list[float]]


@serve.deployment(max_ongoing_requests=128)
class Model:
    def __init__(self) -> None:
        self.net = build()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def __call__(self, rows: list[list[float]]) -> list[list[float]]:
        with torch.inference_mode():
            return self.net(torch.tensor(rows)).tolist()  # type: ignore[no-any-return]


@serve.deployment(max_ongoing_requests=128)
@serve.ingress(app)
class Ingress:
    def __init__(self, model: Any) -> None:
        self.model = model

    @app.post("/predict")
    async def predict(self, request: Request) -> dict[str, list[list[float]]]:
        return {"outputs": [await self.model.remote(request.inputs[0])]}


if __name__ == "__main__":
    sys.path.insert(0, sys.path[0])
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        _temp_dir=sys.argv[2],
        runtime_env={"env_vars": {"PYTHONPATH": sys.path[0]}},
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    replicas = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    model = Model.options(num_replicas=replicas).bind()  # type: ignore[attr-defined]
    serve.run(Ingress.options(num_replicas=replicas).bind(model))  # type: ignore[attr-defined]
    signal.pause()

"""LitServe with batching, as its documentation shows it."""

import sys
from typing import Any

import litserve as ls
import torch
from mlp import build


class Mlp(ls.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.net = build()

    def decode_request(self, request: dict[str, Any]) -> torch.Tensor:
        return torch.tensor(request["inputs"][0])

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.net(x)  # type: ignore[no-any-return]

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        return {"outputs": [output.tolist()]}


if __name__ == "__main__":
    server = ls.LitServer(Mlp(max_batch_size=64, batch_timeout=0.001), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")

"""mosec, a Rust server that batches requests for a Python worker: at most 64 rows and 1 ms of waiting per batch."""

import sys
from typing import Any

import msgspec
import numpy as np
import torch
from mlp import build
from mosec import Server, Worker


class Request(msgspec.Struct):
    inputs: list[list[float]]


DECODER, ENCODER = msgspec.json.Decoder(Request), msgspec.json.Encoder()


class Mlp(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.net = build()

    def deserialize(self, data: bytes) -> Request:
        return DECODER.decode(data)

    def serialize(self, data: dict[str, Any]) -> bytes:
        return ENCODER.encode(data)

    def forward(self, data: list[Request]) -> list[dict[str, Any]]:
        x = torch.from_numpy(np.array([request.inputs[0] for request in data], dtype=np.float32))
        with torch.inference_mode():
            return [{"outputs": [row]} for row in self.net(x).tolist()]


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", sys.argv[1]]
    server = Server()
    server.append_worker(Mlp, num=1, max_batch_size=64, max_wait_time=1, route="/predict")
    server.run()

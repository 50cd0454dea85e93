"""A lower bound: a bare ASGI function on uvicorn with Shoal's codec; no Ray, proxy, authentication or batching."""

import json
import sys
from typing import Any

import torch
import uvicorn
from mlp import build

from deployments.protocols.oip.codec import OipCodec
from deployments.settings import Limits
from training.bundle.manifest import Manifest

net = build()
codec = OipCodec(Manifest.model_validate(json.loads(sys.stdin.read())), "1", Limits())


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Decode a request, run the net, encode the response."""
    message = await receive()
    request = codec.decode_request(message["body"])
    with torch.inference_mode():
        y = net(torch.from_numpy(request.rows)).numpy()
    body, _ = codec.encode_response((y,), request)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", lifespan="off", access_log=False)

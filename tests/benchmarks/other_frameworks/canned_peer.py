"""Responds to each inference request with prepared bytes: ten scores, as JSON or in the binary form.

python canned_peer.py PORT
"""

import json
import sys
from typing import Any

import numpy as np
import uvicorn

SCORES = np.linspace(0, 1, 10, dtype="<f4")
OUTPUT: dict[str, Any] = {"name": "y", "shape": [1, 10], "datatype": "FP32"}


def encode_json(**keys: Any) -> bytes:
    return json.dumps({"model_name": "m", "model_version": "1", "outputs": [OUTPUT | keys]}).encode()


HEADER = encode_json(parameters={"binary_data_size": SCORES.nbytes})
BINARY = HEADER + SCORES.tobytes()
JSON = encode_json(data=SCORES.tolist())


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    more_body = True
    while more_body:
        more_body = (await receive()).get("more_body", False)
    binary = any(name == b"inference-header-content-length" for name, _ in scope["headers"])
    body = BINARY if binary else JSON
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if binary:
        headers.append((b"inference-header-content-length", b"%d" % len(HEADER)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", lifespan="off", access_log=False)

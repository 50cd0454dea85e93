"""Answers each inference request with bytes that were made before: ten scores, as JSON or behind it.

python canned_peer.py PORT
"""

import json
import sys
from typing import Any

import numpy as np
import uvicorn

SCORES = np.linspace(0, 1, 10, dtype="<f4")
OUTPUT: dict[str, Any] = {"name": "y", "shape": [1, 10], "datatype": "FP32"}


def answer(**more: Any) -> bytes:
    return json.dumps({"model_name": "m", "model_version": "1", "outputs": [OUTPUT | more]}).encode()


HEAD = answer(parameters={"binary_data_size": SCORES.nbytes})
BINARY = HEAD + SCORES.tobytes()
JSON = answer(data=SCORES.tolist())


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    binary = any(name == b"inference-header-content-length" for name, _ in scope["headers"])
    body = BINARY if binary else JSON
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if binary:
        headers.append((b"inference-header-content-length", b"%d" % len(HEAD)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", lifespan="off", access_log=False)  # type: ignore[arg-type]

"""Plain FastAPI on uvicorn: one process, one request per forward pass."""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from mlp import build
from pydantic import BaseModel

app = FastAPI()
net = build()


class Request(BaseModel):
    inputs: list[list[float]]


@app.post("/predict")
async def predict(request: Request) -> dict[str, list[list[float]]]:
    with torch.inference_mode():
        return {"outputs": net(torch.tensor(request.inputs)).tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")

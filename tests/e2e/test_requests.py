"""Requests over HTTP to a real cluster: right ones, many at once, and every wrong one."""

import base64
import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image

from cluster.local.record import Cluster

ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}
TENSOR = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
FLOWERS, PICTURES = "/v2/models/flowers", "/v2/models/pictures"


def infer(**changes: Any) -> dict[str, Any]:
    return {"inputs": [TENSOR | changes]}


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.mark.parametrize("prefix", ["", "/versions/1"])
def test_every_path_of_a_model_answers_with_and_without_the_version(http: httpx.Client, prefix: str) -> None:
    base = FLOWERS + prefix
    assert http.get(f"{base}/ready").json() == {"name": "flowers", "ready": True}
    assert http.get(base).json()["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    example = http.get(f"{base}/example").json()
    assert http.post(f"{base}/predict", json=example).json()["version"] == "1"
    assert http.post(f"{base}/infer", json=infer()).json()["model_version"] == "1"


def test_the_same_row_gets_the_same_scores_on_every_path(http: httpx.Client) -> None:
    logits = http.post(f"{FLOWERS}/infer", json=infer()).json()["outputs"][0]["data"]
    direct = http.post(f"{FLOWERS}/predict", json={"inputs": [ROW]}).json()
    stable = http.post("/api/v1/models/flowers/predict", json={"inputs": [ROW]}).json()

    expected = np.exp(logits) / np.exp(logits).sum()
    scores = direct["predictions"][0]["scores"]
    assert [scores[label] for label in "abc"] == pytest.approx(expected, abs=1e-6)
    assert direct == stable


def test_a_picture_may_come_as_bytes_base64_or_pixels(http: httpx.Client) -> None:
    raw = png(PICTURE)
    text = base64.b64encode(raw).decode()

    answers = [
        http.post(f"{PICTURES}/predict", content=raw, headers={"Content-Type": "image/png"}),
        http.post(f"{PICTURES}/predict", json={"inputs": [text]}),
        http.post(f"{PICTURES}/predict", json={"inputs": [PICTURE.tolist()]}),
        http.post("/api/v1/models/pictures/predict", content=raw, headers={"Content-Type": "image/png"}),
    ]

    assert [a.status_code for a in answers] == [200] * 4
    assert len({a.text for a in answers}) == 1


def test_a_request_larger_than_a_batch_is_answered_whole(http: httpx.Client) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 4)).round(3)

    answer = http.post(f"{FLOWERS}/infer", json=infer(shape=[1000, 4], data=rows.flatten().tolist()))

    output = answer.json()["outputs"][0]
    assert output["shape"] == [1000, 3]
    some = http.post(f"{FLOWERS}/infer", json=infer(data=rows[777].tolist())).json()["outputs"][0]["data"]
    assert output["data"][777 * 3 : 778 * 3] == pytest.approx(some, abs=1e-5)


def test_each_of_many_callers_at_once_gets_its_own_rows(http: httpx.Client) -> None:
    def ask(number: int) -> list[float]:
        rows = [[float(number), 0.0, 0.0, 0.0]] * (1 + number % 7)
        answer = http.post(f"{FLOWERS}/infer", json=infer(shape=[len(rows), 4], data=rows))
        output = answer.json()["outputs"][0]
        assert output["shape"] == [len(rows), 3]
        return output["data"]  # type: ignore[no-any-return]

    alone = [ask(number) for number in range(100)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(100)))

    for one, many in zip(alone, together, strict=True):
        assert one == pytest.approx(many, abs=1e-5)


def test_the_catalogue_says_what_is_served(http: httpx.Client) -> None:
    models = {m["name"]: m for m in http.get("/api/v1/models").json()["models"]}
    one = http.get("/api/v1/models/flowers").json()

    assert models["flowers"]["status"] == "RUNNING"
    assert models["flowers"]["deployed_version"] == 1
    assert models["flowers"]["variant"] == "fp32"
    # Of the newest version; another test may have published one that is not served.
    assert one["manifest"]["output_schema"]["labels"] == ["a", "b", "c"]
    assert one["versions"][-1]["aliases"] == ["champion"]


def test_the_openapi_page_has_each_models_real_schema_and_an_example_that_works(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert "swagger" in http.get("/docs").text.lower()
    assert "cdn." not in http.get("/docs").text

    for name, answer_keys in (("flowers", {"a", "b", "c"}), ("pictures", {"dark", "light"})):
        operation = document["paths"][f"/v2/models/{name}/predict"]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        jsonschema.validate(content["example"], content["schema"])
        answer = http.post(f"/v2/models/{name}/predict", json=content["example"])
        assert answer.status_code == 200
        jsonschema.validate(answer.json(), operation["responses"]["200"]["content"]["application/json"]["schema"])
        assert answer.json()["predictions"][0]["scores"].keys() <= answer_keys


def test_health_is_open_and_nothing_else_is(served: Cluster) -> None:
    with httpx.Client(base_url=served.url) as stranger:
        assert stranger.get("/v2/health/live").json() == {"live": True}
        assert stranger.get("/v2/health/ready").json() == {"ready": True}
        for path in ("/", "/v2", FLOWERS, f"{FLOWERS}/ready", "/api/v1/models", "/openapi.json", "/docs", "/nothing"):
            assert stranger.get(path).status_code == 401, path
        for path in (f"{FLOWERS}/infer", f"{FLOWERS}/predict", "/api/v1/models/flowers/predict"):
            assert stranger.post(path, json=infer()).status_code == 401, path
            wrong = {"Authorization": "Bearer shoal-0000"}
            assert stranger.post(path, json=infer(), headers=wrong).status_code == 401, path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    + chunk(b"IEND", b"")
)
BINARY = (
    b'{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}'
    + struct.pack("<4f", *ROW.values())
)
JSON, PNG = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}

# What is sent, and the one status that fits it.
WRONG: dict[str, tuple[str, str, bytes, dict[str, str], int]] = {
    "no body": ("POST", f"{FLOWERS}/infer", b"", JSON, 400),
    "malformed JSON": ("POST", f"{FLOWERS}/infer", b'{"inputs": [', JSON, 400),
    "JSON of another form": ("POST", f"{FLOWERS}/infer", b"[1, 2]", JSON, 400),
    "an unknown key": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1,2,3,4]], "topk": 1}', JSON, 400),
    "no UTF-8": ("POST", f"{FLOWERS}/predict", b'{"inputs": ["\xff"]}', JSON, 400),
    "deep nesting": ("POST", f"{FLOWERS}/infer", b'{"inputs":' + b"[" * 200_000, JSON, 400),
    "deep nesting, closed": ("POST", f"{FLOWERS}/predict", b"[" * 50_000 + b"]" * 50_000, JSON, 400),
    "NaN": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1, 2, 3, NaN]]}', JSON, 400),
    "infinity": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1, 2, 3, 1e39]]}', JSON, 422),
    "wrong shape": ("POST", f"{FLOWERS}/infer", json.dumps(infer(shape=[1, 5])).encode(), JSON, 422),
    "shape against data": ("POST", f"{FLOWERS}/infer", json.dumps(infer(shape=[2, 4])).encode(), JSON, 422),
    "wrong dtype": ("POST", f"{FLOWERS}/infer", json.dumps(infer(datatype="INT64")).encode(), JSON, 422),
    "text for a number": ("POST", f"{FLOWERS}/infer", json.dumps(infer(data=["1", 2, 3, 4])).encode(), JSON, 422),
    "rows of unequal length": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1,2,3,4],[1,2,3]]}', JSON, 422),
    "an empty batch": ("POST", f"{FLOWERS}/predict", b'{"inputs": []}', JSON, 422),
    "an empty tensor": ("POST", f"{FLOWERS}/infer", json.dumps(infer(shape=[0, 4], data=[])).encode(), JSON, 422),
    "an unknown input": ("POST", f"{FLOWERS}/infer", json.dumps(infer(name="x")).encode(), JSON, 422),
    "a missing feature": ("POST", f"{FLOWERS}/predict", b'{"inputs": [{"length": 1}]}', JSON, 422),
    "too many rows": ("POST", f"{FLOWERS}/predict", b'{"inputs": [' + b"1," * 70_000 + b"1]}", JSON, 413),
    "a body of 100 MB": ("POST", f"{FLOWERS}/infer", b"x" * 100_000_000, JSON, 413),
    "bytes cut short": (
        "POST",
        f"{FLOWERS}/infer",
        BINARY[:-1],
        {"Inference-Header-Content-Length": str(len(BINARY) - 16)},
        400,
    ),
    "bytes of another datatype": (
        "POST",
        f"{FLOWERS}/infer",
        BINARY.replace(b"FP32", b"FP16"),
        {"Inference-Header-Content-Length": str(len(BINARY) - 16)},
        422,
    ),
    "bytes without their header": ("POST", f"{FLOWERS}/infer", BINARY, JSON, 400),
    "a negative header length": (
        "POST",
        f"{FLOWERS}/infer",
        BINARY,
        {"Inference-Header-Content-Length": "-1"},
        400,
    ),
    "a header longer than the body": (
        "POST",
        f"{FLOWERS}/infer",
        BINARY,
        {"Inference-Header-Content-Length": "9" * 16},
        400,
    ),
    "a parameter of no meaning": (
        "POST",
        f"{FLOWERS}/infer",
        json.dumps(infer() | {"parameters": {"gain": 1}}).encode(),
        JSON,
        400,
    ),
    "no picture": ("POST", f"{PICTURES}/predict", b"hello", PNG, 422),
    "half a picture": ("POST", f"{PICTURES}/predict", png(PICTURE)[:60], PNG, 422),
    "a picture of another kind": ("POST", f"{PICTURES}/predict", png(PICTURE, "GIF"), PNG, 422),
    "a decompression bomb": ("POST", f"{PICTURES}/predict", BOMB, PNG, 413),
    "a bomb in base64": (
        "POST",
        f"{PICTURES}/predict",
        json.dumps({"inputs": [base64.b64encode(BOMB).decode()]}).encode(),
        JSON,
        413,
    ),
    "a pixel out of range": (
        "POST",
        f"{PICTURES}/predict",
        json.dumps({"inputs": [[[256] * 8] * 8]}).encode(),
        JSON,
        422,
    ),
    "a compressed body": (
        "POST",
        f"{FLOWERS}/infer",
        gzip.compress(json.dumps(infer()).encode()),
        JSON | {"Content-Encoding": "gzip"},
        415,
    ),
    "wrong content type": ("POST", f"{FLOWERS}/predict", b"a,b", {"Content-Type": "text/csv"}, 415),
    "wrong content type, infer": ("POST", f"{FLOWERS}/infer", b"a,b", {"Content-Type": "text/csv"}, 415),
    "a picture for a table": ("POST", f"{FLOWERS}/predict", png(PICTURE), PNG, 415),
    "wrong method": ("GET", f"{FLOWERS}/infer", b"", {}, 405),
    "wrong method, catalogue": ("DELETE", "/api/v1/models", b"", {}, 405),
    "unknown model": ("POST", "/v2/models/roses/infer", json.dumps(infer()).encode(), JSON, 404),
    "unknown model, stable address": ("POST", "/api/v1/models/roses/predict", b"{}", JSON, 404),
    "unknown model, catalogue": ("GET", "/api/v1/models/roses", b"", {}, 404),
    "unknown version": ("POST", f"{FLOWERS}/versions/9/infer", json.dumps(infer()).encode(), JSON, 404),
    "unknown path": ("GET", "/v3", b"", {}, 404),
    "unknown path of a model": ("GET", f"{FLOWERS}/explain", b"", {}, 404),
    "stable address, malformed": ("POST", "/api/v1/models/flowers/predict", b"{", JSON, 400),
    "stable address, 100 MB": ("POST", "/api/v1/models/flowers/predict", b"x" * 100_000_000, JSON, 413),
}


@pytest.fixture(scope="module")
def replica_pids(http: httpx.Client, served: Cluster) -> Iterator[set[int]]:
    """The processes that serve, before any wrong request."""
    import psutil

    def serving() -> set[int]:
        # Of one that ends meanwhile there is no command line.
        found = psutil.process_iter(["cmdline"])
        return {p.pid for p in found if "ServeReplica" in " ".join((p.info["cmdline"] or [])[:1])}

    before = serving()
    yield before
    assert serving() == before, "a wrong request cost a replica its life"


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_gets_its_own_4xx_and_leaves_the_replica_serving(
    http: httpx.Client, replica_pids: set[int], case: str
) -> None:
    method, path, content, headers, status = WRONG[case]

    answer = http.request(method, path, content=content, headers=headers)

    assert answer.status_code == status, answer.text[:300]
    error = answer.json()["error"]
    if path.startswith("/v2") and not path.endswith("/predict"):
        assert isinstance(error, str)
        assert error
    else:
        assert error.keys() == {"code", "message", "request_id"}
        assert error["request_id"] == answer.headers["x-request-id"]
    assert http.post(f"{FLOWERS}/infer", json=infer()).status_code == 200

"""HTTP requests to a real cluster: valid ones, concurrent ones, and every kind of invalid one."""

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

from cluster.local.running_cluster import Cluster

ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}
TENSOR = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
FLOWERS, IMAGES = "/v2/models/flowers", "/v2/models/images"


def build_infer_request(**changes: Any) -> dict[str, Any]:
    return {"inputs": [TENSOR | changes]}


def encode_infer_request(**changes: Any) -> bytes:
    return json.dumps(build_infer_request(**changes)).encode()


def encode_image(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.mark.parametrize("prefix", ["", "/versions/1"])
def test_every_path_of_a_model_works_with_and_without_the_version(http: httpx.Client, prefix: str) -> None:
    base = FLOWERS + prefix
    assert http.get(f"{base}/ready").json() == {"name": "flowers", "ready": True}
    assert http.get(base).json()["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    example = http.get(f"{base}/example").json()
    assert http.post(f"{base}/predict", json=example).json()["version"] == "1"
    assert http.post(f"{base}/infer", json=build_infer_request()).json()["model_version"] == "1"


def test_the_same_row_gets_the_same_scores_on_every_path(http: httpx.Client) -> None:
    logits = http.post(f"{FLOWERS}/infer", json=build_infer_request()).json()["outputs"][0]["data"]
    direct = http.post(f"{FLOWERS}/predict", json={"inputs": [ROW]}).json()
    stable = http.post("/api/v1/models/flowers/predict", json={"inputs": [ROW]}).json()

    expected = np.exp(logits) / np.exp(logits).sum()
    scores = direct["predictions"][0]["scores"]
    assert [scores[label] for label in "abc"] == pytest.approx(expected, abs=1e-6)
    assert direct == stable


def test_an_image_may_be_sent_as_a_file_in_base64_or_as_pixels(http: httpx.Client) -> None:
    png = encode_image(PIXELS)
    encoded = base64.b64encode(png).decode()

    responses = [
        http.post(f"{IMAGES}/predict", content=png, headers={"Content-Type": "image/png"}),
        http.post(f"{IMAGES}/predict", json={"inputs": [encoded]}),
        http.post(f"{IMAGES}/predict", json={"inputs": [PIXELS.tolist()]}),
        http.post("/api/v1/models/images/predict", content=png, headers={"Content-Type": "image/png"}),
    ]

    assert [response.status_code for response in responses] == [200] * 4
    assert len({response.text for response in responses}) == 1


def test_a_request_larger_than_a_batch_gets_all_its_rows(http: httpx.Client) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 4)).round(3)

    response = http.post(f"{FLOWERS}/infer", json=build_infer_request(shape=[1000, 4], data=rows.flatten().tolist()))

    output = response.json()["outputs"][0]
    assert output["shape"] == [1000, 3]
    row_output = http.post(f"{FLOWERS}/infer", json=build_infer_request(data=rows[777].tolist())).json()["outputs"][0][
        "data"
    ]
    assert output["data"][777 * 3 : 778 * 3] == pytest.approx(row_output, abs=1e-5)


@pytest.mark.parametrize("path", [f"{FLOWERS}/predict", "/api/v1/models/flowers/predict"])
def test_deadline_and_priority_pass_the_edge(http: httpx.Client, path: str) -> None:
    def post(**headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.post(path, json={"inputs": [[1, 2, 3, 4]]}, headers=names)

    assert post(x_request_timeout_seconds="20", x_request_priority="batch").status_code == 200
    assert post(x_request_timeout_seconds="1e-9").json()["error"]["code"] == "deadline_exceeded"
    assert post(x_request_timeout_seconds="soon").status_code == 400
    assert post(x_request_priority="urgent").status_code == 400


def test_each_of_many_concurrent_callers_gets_its_own_rows(http: httpx.Client) -> None:
    def infer_rows(number: int) -> list[float]:
        rows = [[float(number), 0.0, 0.0, 0.0]] * (1 + number % 7)
        response = http.post(f"{FLOWERS}/infer", json=build_infer_request(shape=[len(rows), 4], data=rows))
        output = response.json()["outputs"][0]
        assert output["shape"] == [len(rows), 3]
        return output["data"]  # type: ignore[no-any-return]

    sequential = [infer_rows(number) for number in range(100)]
    with ThreadPoolExecutor(32) as pool:
        concurrent = list(pool.map(infer_rows, range(100)))

    for expected, output in zip(sequential, concurrent, strict=True):
        assert expected == pytest.approx(output, abs=1e-5)


def test_the_catalog_lists_what_is_served(http: httpx.Client) -> None:
    models = {m["name"]: m for m in http.get("/api/v1/models").json()["models"]}
    details = http.get("/api/v1/models/flowers").json()

    assert models["flowers"]["status"] == "RUNNING"
    assert models["flowers"]["deployed_version"] == 1
    assert models["flowers"]["variant"] == "fp32"
    # The manifest is of the newest version, which another test may have published without serving it.
    assert details["manifest"]["output_schema"]["labels"] == ["a", "b", "c"]
    assert details["versions"][-1]["aliases"] == ["champion"]


def test_the_openapi_page_has_each_models_real_schema_and_an_example_that_works(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert "swagger" in http.get("/docs").text.lower()
    assert "cdn." not in http.get("/docs").text

    for name, labels in (("flowers", {"a", "b", "c"}), ("images", {"dark", "light"})):
        operation = document["paths"][f"/v2/models/{name}/predict"]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        jsonschema.validate(content["example"], content["schema"])
        response = http.post(f"/v2/models/{name}/predict", json=content["example"])
        assert response.status_code == 200
        jsonschema.validate(response.json(), operation["responses"]["200"]["content"]["application/json"]["schema"])
        assert response.json()["predictions"][0]["scores"].keys() <= labels


def test_only_the_health_paths_need_no_key(serving_cluster: Cluster) -> None:
    with httpx.Client(base_url=serving_cluster.url) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        for path in ("/", "/v2", FLOWERS, f"{FLOWERS}/ready", "/api/v1/models", "/openapi.json", "/docs", "/nothing"):
            assert client.get(path).status_code == 401, path
        for path in (f"{FLOWERS}/infer", f"{FLOWERS}/predict", "/api/v1/models/flowers/predict"):
            assert client.post(path, json=build_infer_request()).status_code == 401, path
            headers = {"Authorization": "Bearer shoal-0000"}
            assert client.post(path, json=build_infer_request(), headers=headers).status_code == 401, path


def build_png_chunk(chunk_type: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(chunk_type + content)
    return struct.pack(">I", len(content)) + chunk_type + content + struct.pack(">I", checksum)


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + build_png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
    + build_png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    + build_png_chunk(b"IEND", b"")
)
BINARY = (
    b'{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}'
    + struct.pack("<4f", *ROW.values())
)
JSON, PNG = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}

# Method, path, body and headers of each request, and the status of its response.
INVALID_REQUESTS: dict[str, tuple[str, str, bytes, dict[str, str], int]] = {
    "no body": ("POST", f"{FLOWERS}/infer", b"", JSON, 400),
    "malformed JSON": ("POST", f"{FLOWERS}/infer", b'{"inputs": [', JSON, 400),
    "JSON that is no object": ("POST", f"{FLOWERS}/infer", b"[1, 2]", JSON, 400),
    "an unknown key": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1,2,3,4]], "topk": 1}', JSON, 400),
    "invalid UTF-8": ("POST", f"{FLOWERS}/predict", b'{"inputs": ["\xff"]}', JSON, 400),
    "deep nesting": ("POST", f"{FLOWERS}/infer", b'{"inputs":' + b"[" * 200_000, JSON, 400),
    "deep nesting, closed": ("POST", f"{FLOWERS}/predict", b"[" * 50_000 + b"]" * 50_000, JSON, 400),
    "NaN": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1, 2, 3, NaN]]}', JSON, 400),
    "infinity": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1, 2, 3, 1e39]]}', JSON, 422),
    "wrong shape": ("POST", f"{FLOWERS}/infer", encode_infer_request(shape=[1, 5]), JSON, 422),
    "shape against data": (
        "POST",
        f"{FLOWERS}/infer",
        encode_infer_request(shape=[2, 4]),
        JSON,
        422,
    ),
    "wrong dtype": ("POST", f"{FLOWERS}/infer", encode_infer_request(datatype="INT64"), JSON, 422),
    "text for a number": (
        "POST",
        f"{FLOWERS}/infer",
        encode_infer_request(data=["1", 2, 3, 4]),
        JSON,
        422,
    ),
    "rows of unequal length": ("POST", f"{FLOWERS}/predict", b'{"inputs": [[1,2,3,4],[1,2,3]]}', JSON, 422),
    "an empty batch": ("POST", f"{FLOWERS}/predict", b'{"inputs": []}', JSON, 422),
    "an empty tensor": (
        "POST",
        f"{FLOWERS}/infer",
        encode_infer_request(shape=[0, 4], data=[]),
        JSON,
        422,
    ),
    "an unknown input": ("POST", f"{FLOWERS}/infer", encode_infer_request(name="x"), JSON, 422),
    "a missing feature": ("POST", f"{FLOWERS}/predict", b'{"inputs": [{"length": 1}]}', JSON, 422),
    "too many rows": ("POST", f"{FLOWERS}/predict", b'{"inputs": [' + b"1," * 70_000 + b"1]}", JSON, 413),
    "a body of 100 MB": ("POST", f"{FLOWERS}/infer", b"x" * 100_000_000, JSON, 413),
    "truncated bytes": (
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
    "an unknown parameter": (
        "POST",
        f"{FLOWERS}/infer",
        json.dumps(build_infer_request() | {"parameters": {"gain": 1}}).encode(),
        JSON,
        400,
    ),
    "no image": ("POST", f"{IMAGES}/predict", b"hello", PNG, 422),
    "a truncated image": ("POST", f"{IMAGES}/predict", encode_image(PIXELS)[:60], PNG, 422),
    "an image of an unsupported format": ("POST", f"{IMAGES}/predict", encode_image(PIXELS, "GIF"), PNG, 422),
    "a decompression bomb": ("POST", f"{IMAGES}/predict", BOMB, PNG, 413),
    "a decompression bomb in base64": (
        "POST",
        f"{IMAGES}/predict",
        json.dumps({"inputs": [base64.b64encode(BOMB).decode()]}).encode(),
        JSON,
        413,
    ),
    "a pixel out of range": (
        "POST",
        f"{IMAGES}/predict",
        json.dumps({"inputs": [[[256] * 8] * 8]}).encode(),
        JSON,
        422,
    ),
    "a compressed body": (
        "POST",
        f"{FLOWERS}/infer",
        gzip.compress(encode_infer_request()),
        JSON | {"Content-Encoding": "gzip"},
        415,
    ),
    "wrong content type": ("POST", f"{FLOWERS}/predict", b"a,b", {"Content-Type": "text/csv"}, 415),
    "wrong content type, infer": ("POST", f"{FLOWERS}/infer", b"a,b", {"Content-Type": "text/csv"}, 415),
    "an image for a table": ("POST", f"{FLOWERS}/predict", encode_image(PIXELS), PNG, 415),
    "wrong method": ("GET", f"{FLOWERS}/infer", b"", {}, 405),
    "wrong method, catalog": ("DELETE", "/api/v1/models", b"", {}, 405),
    "unknown model": ("POST", "/v2/models/roses/infer", encode_infer_request(), JSON, 404),
    "unknown model, stable address": ("POST", "/api/v1/models/roses/predict", b"{}", JSON, 404),
    "unknown model, catalog": ("GET", "/api/v1/models/roses", b"", {}, 404),
    "unknown version": ("POST", f"{FLOWERS}/versions/9/infer", encode_infer_request(), JSON, 404),
    "unknown path": ("GET", "/v3", b"", {}, 404),
    "unknown path of a model": ("GET", f"{FLOWERS}/explain", b"", {}, 404),
    "stable address, malformed": ("POST", "/api/v1/models/flowers/predict", b"{", JSON, 400),
    "stable address, 100 MB": ("POST", "/api/v1/models/flowers/predict", b"x" * 100_000_000, JSON, 413),
}


@pytest.fixture(scope="module")
def replica_pids(http: httpx.Client, serving_cluster: Cluster) -> Iterator[set[int]]:
    """Processes of the replicas before any invalid request."""
    import psutil

    def list_replicas() -> set[int]:
        # The command line of a process that has ended meanwhile is None.
        running = psutil.process_iter(["cmdline"])
        return {p.pid for p in running if "ServeReplica" in " ".join((p.info["cmdline"] or [])[:1])}

    before = list_replicas()
    yield before
    assert list_replicas() == before, "an invalid request killed a replica"


@pytest.mark.parametrize("case", INVALID_REQUESTS)
def test_an_invalid_request_gets_its_own_4xx_and_the_replica_goes_on_serving(
    http: httpx.Client, replica_pids: set[int], case: str
) -> None:
    method, path, content, headers, status = INVALID_REQUESTS[case]

    response = http.request(method, path, content=content, headers=headers)

    assert response.status_code == status, response.text[:300]
    error = response.json()["error"]
    if path.startswith("/v2") and not path.endswith("/predict"):
        assert isinstance(error, str)
        assert error
    else:
        assert error.keys() == {"code", "message", "request_id"}
        assert error["request_id"] == response.headers["x-request-id"]
    assert http.post(f"{FLOWERS}/infer", json=build_infer_request()).status_code == 200

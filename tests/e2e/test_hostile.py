"""Hostile requests, over real sockets, at the default limits; tests/hostile.md is the table of them.

While they are sent, the replica goes on answering others, and takes no more memory than the limits allow.
"""

import base64
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from PIL import Image

from cluster.local import processes, secrets
from cluster.local.running_cluster import Cluster, cluster_id, temp_dir
from cluster.settings import Settings
from tests.conftest import publish_and_deploy
from tests.small_bundles import save_image, save_text_generator

TABLE = Path(__file__).parents[1] / "hostile.md"
JSON = {"Content-Type": "application/json"}
Reply = tuple[int, str]


@pytest.fixture(scope="module")
def models(serving_cluster: Cluster, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Pictures of 224 by 224 and a text generator, beside `flowers`; returns the pids of their replicas."""
    folder = tmp_path_factory.mktemp("hostile")
    save_image(folder / "pictures", "pictures", size=224)
    save_text_generator(folder / "writer", "scribe")
    for name in ("pictures", "writer"):
        publish_and_deploy(settings, serving_cluster, folder / name)
    owned = processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
    names = {name: f"ServeReplica:{name}" for name in ("flowers", "pictures", "scribe")}
    return {
        name: process.pid
        for name, title in names.items()
        for process in owned
        if title in " ".join(process.cmdline()[:1])
    }


@pytest.fixture(scope="module")
def http(serving_cluster: Cluster, settings: Settings) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {secrets.read_secret(settings.home, secrets.ADMIN_KEY)}"}
    with httpx.Client(base_url=serving_cluster.url, headers=headers, timeout=60) as client:
        yield client


def make_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def make_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG that decodes all of its pixels in each of so many scans."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def make_webp(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "WEBP", lossless=True)
    return file.getvalue()


def predict(model: str, body: bytes | dict[str, Any], **headers: str) -> Callable[[httpx.Client], Reply]:
    def send(http: httpx.Client) -> Reply:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = http.post(f"/v2/models/{model}/predict", content=content, headers=JSON | headers)
        return response.status_code, response.text

    return send


def infer(model: str, tensor: dict[str, Any], binary: bytes = b"") -> Callable[[httpx.Client], Reply]:
    def send(http: httpx.Client) -> Reply:
        header = json.dumps({"inputs": [tensor]}).encode()
        extra = {"Inference-Header-Content-Length": str(len(header))} if binary else {}
        response = http.post(f"/v2/models/{model}/infer", content=header + binary, headers=JSON | extra)
        return response.status_code, response.text

    return send


def without_key(http: httpx.Client) -> Reply:
    response = httpx.post(f"{http.base_url}/v2/models/flowers/predict", content=b"x" * 2**20, headers=JSON)
    return response.status_code, response.text


def with_basic(http: httpx.Client) -> Reply:
    key = http.headers["Authorization"].removeprefix("Bearer ")
    response = httpx.post(f"{http.base_url}/v2/models/flowers/predict", auth=("x", key), content=b"{}", headers=JSON)
    return response.status_code, response.text


def without_type(http: httpx.Client) -> Reply:
    response = http.post("/v2/models/flowers/predict", content=b'{"inputs": [[1, 2, 3, 4]]}')
    return response.status_code, response.text


PIXEL = base64.b64encode(make_png(1, 1)).decode()
BOMB = base64.b64encode(make_png(20_000, 20_000)).decode()
TENSOR = {"name": "input", "datatype": "FP32"}
CASES: dict[str, tuple[Callable[[httpx.Client], Reply], int]] = {
    "6,000 pictures of one pixel, 0.5 MB, for a model of 224 by 224": (
        predict("pictures", {"inputs": [PIXEL] * 6000}),
        413,
    ),
    "one picture of 20,000 by 20,000 pixels, 50 kB": (predict("pictures", {"inputs": [BOMB]}), 413),
    "one picture of 16 million pixels in 1,000 scans, 0.1 MB": (
        predict("pictures", make_scans(4000, 1000), **{"Content-Type": "image/jpeg"}),
        422,
    ),
    "one picture of 16 million pixels, 1 kB": (
        predict("pictures", make_webp(4000), **{"Content-Type": "image/webp"}),
        200,
    ),
    "30 MB of empty lists": (predict("flowers", b'{"inputs":[' + b",".join([b"[]"] * 10**7) + b"]}"), 413),
    "a JSON nested 100,000 deep": (predict("flowers", b'{"inputs":' + b"[" * 10**5), 400),
    "a body of 33 MB": (predict("flowers", b" " * (33 * 2**20)), 413),
    "a tensor whose shape asks for 1 TB": (
        infer("pictures", {"name": "input", "datatype": "UINT8", "shape": [10**6, 1, 224, 224], "data": [0]}),
        413,
    ),
    "a tensor of 4 bytes that says it has 2**62": (
        infer("flowers", TENSOR | {"shape": [1, 4], "parameters": {"binary_data_size": 2**62}}, b"1234"),
        400,
    ),
    "15 million numbers for a row of four": (
        infer("flowers", TENSOR | {"shape": [1, 4], "data": [0] * 15 * 10**6}),
        413,
    ),
    "65,536 texts of 1,000 tokens each": (predict("scribe", {"inputs": ["a"] * 65_536, "max_tokens": 1000}), 413),
    "2 MB of one word": (predict("scribe", {"inputs": ["t" * 2_000_000], "max_tokens": 1}), 200),
    "2 MB of spaces": (predict("scribe", {"inputs": [" " * 2_000_000], "max_tokens": 1}), 200),
    "an integer of 4,000 digits": (predict("flowers", b'{"inputs": [[1, 2, 3, ' + b"9" * 4000 + b"]]}"), 422),
    "a whole number that float32 does not hold": (predict("flowers", {"inputs": [[1, 2, 3, 16_777_217]]}), 422),
    "the same with a decimal point": (predict("flowers", b'{"inputs": [[1, 2, 3, 16777217.0]]}'), 422),
    "1e400": (predict("flowers", b'{"inputs": [[1, 2, 3, 1e400]]}'), 400),
    "NaN": (predict("flowers", b'{"inputs": [[1, 2, 3, NaN]]}'), 400),
    "null where nothing may be missing": (predict("flowers", {"inputs": [[1, 2, 3, None]]}), 422),
    "no key": (without_key, 401),
    "the key as a browser's password": (with_basic, 401),
    "no content type": (without_type, 415),
    "a compressed body": (predict("flowers", {"inputs": []}, **{"Content-Encoding": "gzip"}), 415),
}


def read_table(heading: str) -> dict[str, int]:
    """What one table of tests/hostile.md says: the status by what is tried."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", TABLE.read_text(), re.MULTILINE | re.DOTALL)
    return {name: int(status) for name, status in re.findall(r"^\| (.+?) \| (\d{3}) \|", section, re.MULTILINE)}


def test_the_table_lists_what_is_tried_and_what_it_is_answered() -> None:
    assert read_table("Requests") == {name: status for name, (_, status) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_request_is_answered_and_takes_no_more_than_its_limits(
    models: dict[str, int], http: httpx.Client, name: str
) -> None:
    send, expected = CASES[name]
    before = {model: psutil.Process(pid).memory_info().rss for model, pid in models.items()}
    peaks = dict(before)
    done, slowest_s = threading.Event(), 0.0

    def watch_memory() -> None:
        while not done.wait(0.01):
            for model, pid in models.items():
                peaks[model] = max(peaks[model], psutil.Process(pid).memory_info().rss)

    def call_beside() -> None:
        nonlocal slowest_s
        with httpx.Client(base_url=http.base_url, headers=http.headers, timeout=30) as other:
            while not done.is_set():
                start_s = time.perf_counter()
                assert other.post("/v2/models/flowers/predict", json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
                slowest_s = max(slowest_s, time.perf_counter() - start_s)

    threads = [threading.Thread(target=watch_memory), threading.Thread(target=call_beside)]
    for thread in threads:
        thread.start()
    try:
        status, text = send(http)
    finally:
        done.set()
        for thread in threads:
            thread.join()

    assert status == expected, text[:500]
    assert "Traceback" not in text
    growth = {model: peaks[model] - before[model] for model in models}
    # The body itself, once or twice, and max_decoded_bytes.
    assert max(growth.values()) < 400 * 2**20, growth
    assert slowest_s < 2, f"another caller waited {slowest_s:.1f} s"
    assert {model: psutil.pid_exists(pid) for model, pid in models.items()} == dict.fromkeys(models, True)


def test_a_reader_that_stops_reading_a_stream_keeps_no_one_from_being_answered(
    models: dict[str, int], http: httpx.Client
) -> None:
    address = urlsplit(str(http.base_url))
    body = json.dumps({"inputs": ["To be"] * 30, "max_tokens": 1000, "stream": True}).encode()
    head = (
        f"POST /v2/models/scribe/predict HTTP/1.1\r\nHost: x\r\nAuthorization: {http.headers['Authorization']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(head.encode() + body)
        start_s = time.perf_counter()
        for _ in range(3):
            status, _ = predict("scribe", {"inputs": ["a"], "max_tokens": 5})(http)
            assert status == 200
        assert time.perf_counter() - start_s < 5

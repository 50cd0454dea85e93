"""What a request's pixels may cost, and whom: never the event loop, and never the threads of other work."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deployments.errors import DeadlineExceeded, InvalidImage, PayloadTooLarge
from deployments.models import generation
from deployments.models.served_model import ServedModel
from deployments.protocols.predict.images import IMAGE_THREADS, run_in_image_thread
from deployments.server.scheduling import Scheduling
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.bundle.verify import verify_bundle
from training.data import images
from training.schema import ImageInput, ImageOutput
from training.zoo.nets.vae import VAE

JSON = "application/json"
LIMITS = Limits(max_image_pixels=1_000_000)


def serve(folder: Path) -> ServedModel:
    endpoint = ModelEndpoint(name="m", version=1, digest=verify_bundle(folder).digest, uri=str(folder), limits=LIMITS)
    return ServedModel(endpoint, folder.parent)


def encode(size: int, file_format: str = "WEBP", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size)).save(stream, file_format, **options)
    return stream.getvalue()


def record_threads(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """The names of the threads in which a function is called."""
    threads: list[str] = []
    function: Callable[..., Any] = getattr(module, name)

    def recorded(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name.partition("_")[0])
        return function(*arguments)

    monkeypatch.setattr(module, name, recorded)
    return threads


def test_a_small_file_of_many_pixels_is_decoded_off_the_event_loop(
    image_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, large, small = serve(image_bundle), encode(1000, lossless=True), encode(8)
    threads = record_threads(monkeypatch, images, "orient_and_convert")
    assert len(large) < 1000

    def call(body: bytes, content_type: str) -> str:
        threads.clear()
        asyncio.run(model.predict(body, content_type))
        return threads[-1]

    def to_json(content: bytes) -> bytes:
        return json.dumps({"inputs": [base64.b64encode(content).decode()]}).encode()

    assert call(large, "image/webp") == "image"
    assert call(to_json(large), JSON) == "image"
    assert call(small, "image/webp") == "MainThread"
    assert call(to_json(small), JSON) == "MainThread"
    # Many bytes of few pixels.
    assert call(to_json(small + bytes(5000)), JSON) == "image"


def test_an_image_of_too_many_scans_is_refused(image_bundle: Path) -> None:
    content = encode(64, "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]

    with pytest.raises(InvalidImage, match="the image is refused: it has more than 100 scans"):
        asyncio.run(serve(image_bundle).predict(content[:-2] + scan * 100 + b"\xff\xd9", "image/jpeg"))


def test_decoding_waits_for_itself_and_leaves_other_threads_alone() -> None:
    async def run() -> None:
        release = threading.Event()
        decoding = [asyncio.create_task(run_in_image_thread(release.wait)) for _ in range(100)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "other work"), 5) == "other work"
        waiting = decoding[IMAGE_THREADS:]
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in results)
        release.set()
        assert all(await asyncio.gather(*decoding[:IMAGE_THREADS]))

    asyncio.run(run())


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("sampler") / "b"
    save_sampler(folder)
    return serve(folder)


def save_sampler(folder: Path) -> Manifest:
    vae = VAE(1, 128, 128, latent_size=2, hidden_size=2)
    info = ModelInfo(
        name="sampler",
        task="image-generation",
        input_schema=ImageInput(height=128, width=128, mode="L"),
        output_schema=ImageOutput(latent_size=2),
    )
    pixels = torch.randint(0, 256, (2, 1, 128, 128), dtype=torch.uint8)
    names = ("pixels", "mean", "log_variance")
    return save_bundle(folder, vae, inputs=pixels, info=info, outputs=names, decoder=vae.decode)


def test_samples_are_made_off_the_event_loop(sampler: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = record_threads(monkeypatch, generation, "encode_base64_png")

    answers = [asyncio.run(sampler.predict(b'{"samples": 20, "seed": 1}', JSON)) for _ in range(2)]

    assert len(json.loads(answers[0])["predictions"]) == 20
    assert answers[0] == answers[1]
    assert set(threads) == {"image"}


def test_samples_are_bounded_in_pixels_and_bytes(sampler: ServedModel) -> None:
    with pytest.raises(PayloadTooLarge, match=r"64 samples of 128x128 are 1048576 pixels; the limit is 1000000"):
        asyncio.run(sampler.predict(b'{"samples": 64}', JSON))


@pytest.mark.parametrize("scheduling", [Scheduling.after(0.0), None])
def test_samples_that_nobody_waits_for_are_not_made(
    sampler: ServedModel, monkeypatch: pytest.MonkeyPatch, scheduling: Scheduling | None
) -> None:
    if scheduling is None:
        limits = sampler.endpoint.limits.model_copy(update={"request_timeout_s": 1e-9})
        monkeypatch.setattr(sampler, "endpoint", sampler.endpoint.model_copy(update={"limits": limits}))
    threads = record_threads(monkeypatch, generation, "encode_base64_png")
    monkeypatch.setattr(sampler._batcher, "check_admission", lambda scheduling: None)

    with pytest.raises(DeadlineExceeded):
        asyncio.run(sampler.predict(b'{"samples": 20}', JSON, None, scheduling))

    assert threads == []

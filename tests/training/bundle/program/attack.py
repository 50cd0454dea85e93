"""Attack: replace each kind of string in real bundles by payloads, and record what Python does while they are loaded.

Run by test_attacks.py in a process of its own, since an audit hook cannot be removed. Prints a JSON report.
"""

import contextlib
import encodings.cp437  # noqa: F401  (zipfile decodes names by it, once)
import json
import os
import random
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from deployments.protocols.predict.codec import PredictCodec, encode_json
from deployments.settings import Limits
from tests.small_bundles import rewrite_manifest
from training.bundle.load import load_bundle
from training.errors import ShoalError

Change = tuple[str, bytes]
"""What was changed, and the new content of the file."""

SAMPLES_OF_A_KIND = int(os.environ.get("ATTACK_SAMPLES", "1"))
NAMED = ("config", "tensor_values", "sym_int_values", "range_constraints", "files", "vocab")
"""Objects whose keys are names."""
WATCHED = ("os", "subprocess", "socket", "ctypes", "shutil", "pty", "urllib", "code")
"""Audit events that a bundle must not cause, by their first part."""


def list_payloads(marker: Path) -> list[Any]:
    return [
        f"__import__('os').system('touch {marker}')",
        f"Integer(2)*__import__('os').system('touch {marker}')",
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "os.system",
        "_operator.attrgetter",
        "math.__loader__.load_module",
        "../../../../etc/passwd",
        "/etc/passwd",
        f"touch {marker}",
        "x\n    import os; os.system('true')",
        "x\"]; __import__('os')",
        "__class__.__init__.__globals__",
        "\ud7ff\u202e\N{FULLWIDTH LATIN SMALL LETTER A}\x00",
        "9" * 400,
        "a" * 10_000,
        "",
        10**30,
        2**62,
        -1,
        1e308,
        True,
        None,
        [],
        {"$ref": "torch.os"},
    ]


def list_leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all leaves; a path that ends in ("key", k) is of the key itself."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield (*path, "key", key)
            yield from list_leaves(child, (*path, key))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from list_leaves(child, (*path, i))
    else:
        yield path


def get_kind(path: tuple[Any, ...]) -> str:
    """A path without what differs between leaves that mean the same."""
    parts = []
    for i, part in enumerate(path):
        is_name = i and path[i - 1] in (
            "config",
            "tensor_values",
            "sym_int_values",
            "range_constraints",
            "files",
            "vocab",
        )
        parts.append("*" if isinstance(part, int) or is_name else str(part))
    # Inner graphs have the keys of the main graph.
    return re.sub(r"(.*)\.as_graph\.", "inner.", ".".join(parts))


def replace(value: Any, path: tuple[Any, ...], payload: Any) -> Any:
    value = json.loads(json.dumps(value))
    parent = value
    is_key = len(path) > 1 and path[-2] == "key" and isinstance(path[-1], str)
    for part in path[: -2 if is_key else -1]:
        parent = parent[part]
    if is_key:
        items = [(str(payload) if key == path[-1] else key, child) for key, child in parent.items()]
        parent.clear()
        parent.update(items)
    else:
        parent[path[-1]] = payload
    return value


def change_json(content: bytes, payloads: list[Any], rng: random.Random) -> Iterator[Change]:
    document = json.loads(content)
    kinds: dict[str, list[tuple[Any, ...]]] = {}
    for path in list_leaves(document):
        kinds.setdefault(get_kind(path), []).append(path)
    for kind, paths in sorted(kinds.items()):
        for payload in rng.sample(payloads, 2 * SAMPLES_OF_A_KIND - 1):
            for path in rng.sample(paths, min(SAMPLES_OF_A_KIND, len(paths))):
                yield f"{kind} = {payload!r:.40}", json.dumps(replace(document, path, payload)).encode()
    # A name that is the same everywhere, so that all references to it are right.
    names = sorted(set(re.findall(rb'"(?:name|as_name|parameter_name|buffer_name)": "([^"]+)"', content)))
    for name in rng.sample(names, min(8, len(names))):
        payload = rng.choice([payload for payload in payloads if isinstance(payload, str)])
        changed = content.replace(b'"' + name + b'"', json.dumps(payload).encode())
        yield f"{name.decode()} everywhere = {payload!r:.40}", changed


def change_archive(file: Path, payloads: list[Any], rng: random.Random) -> Iterator[Change]:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in members.items():
        if name.endswith(".json"):
            for label, changed in change_json(content, payloads, rng):
                yield f"{name}: {label}", write_archive(members | {name: changed})
        elif len(content) < 100:
            for payload in rng.sample(payloads, 2):
                yield f"{name} = {payload!r:.40}", write_archive(members | {name: str(payload).encode()})
        root = name.split("/")[0]
        for payload in rng.sample([p for p in payloads if p and isinstance(p, str)], SAMPLES_OF_A_KIND):
            for new_name in (payload, f"{root}/{payload}", name.replace(root, payload)):
                others = {key: value for key, value in members.items() if key != name}
                yield f"member {name} is called {new_name!r:.40}", write_archive(others | {new_name: content})


def write_archive(members: dict[str, bytes]) -> bytes:
    file = Path("archive.zip")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.read_bytes()


def list_changes(folder: Path, payloads: list[Any], rng: random.Random) -> Iterator[tuple[str, Change]]:
    for file in sorted(folder.iterdir()):
        if file.suffix == ".pt2":
            changes = change_archive(file, payloads, rng)
        elif file.suffix == ".json":
            changes = change_json(file.read_bytes(), payloads, rng)
        else:
            changes = iter([(f"{payload!r:.40}", str(payload).encode()) for payload in payloads])
        for change in changes:
            yield file.name, change


def use(folder: Path) -> None:
    """Verify and load a bundle, and run its example."""
    bundle = load_bundle(folder)
    try:
        codec = PredictCodec(bundle.manifest, "1", Limits(), bundle.tokenizer)
        request = codec.decode_request(encode_json(bundle.example), "application/json")
        with torch.inference_mode():
            output = bundle.net(torch.from_numpy(request.rows[0][None]))
            if bundle.decoder is not None:
                bundle.decoder(torch.zeros(1, bundle.manifest.output_schema.latent_size))
        outputs = output if isinstance(output, tuple) else (output,)
        codec.encode_response(tuple(y.numpy() for y in outputs), request)
    except Exception:
        # A program may be wrong; what matters is what it does.
        pass


class Recorder:
    """Records what Python's audit events say, while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self.folder = ""
        self.events: set[str] = set()
        sys.addaudithook(self.record)

    def record(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            path, mode, flags = args
            is_read = (mode in ("r", "rb", None)) and not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if is_read and isinstance(path, str | bytes) and os.fsdecode(path).startswith(self.folder):
                return
            self.events.add(f"open {path} {mode}")
        elif event in ("exec", "compile"):
            self.events.add(f"{event} {args[0]!r:.200}")
        elif event == "import":
            self.events.add(f"import {args[0]}")
        elif event.split(".")[0] in WATCHED and event not in ("os.scandir", "os.listdir"):
            self.events.add(f"{event} {args!r:.200}")


def main(marker: Path, folders: list[Path]) -> None:
    rng = random.Random(0)
    recorder = Recorder()
    report: dict[str, Any] = {"attempts": 0, "refused": 0, "events": {}, "errors": {}}
    payloads = list_payloads(marker)
    attempt = Path("attempt").absolute()
    # Pillow imports its plugins when it meets a format that it does not know.
    Image.init()
    for folder in folders:
        use(folder)
        shutil.copytree(folder, attempt)
        for file, (label, content) in list_changes(folder, payloads, rng):
            (attempt / file).write_bytes(content)
            with contextlib.suppress(ValueError):  # it is no manifest any more
                rewrite_manifest(attempt)
            recorder.folder, recorder.events, recorder.is_on = str(attempt), set(), True
            try:
                use(attempt)
            except ShoalError as error:
                report["refused"] += 1
                if "\n" in str(error) or len(str(error)) > 2000:
                    report["errors"][f"{file}: {label}"] = f"not one short line: {error}"
            except Exception as error:  # whatever else is a finding
                report["errors"][f"{file}: {label}"] = f"{type(error).__name__}: {error}"
            recorder.is_on = False
            report["attempts"] += 1
            if recorder.events:
                report["events"][f"{file}: {label}"] = sorted(recorder.events)
            for name in (file, "bundle.json"):
                shutil.copy(folder / name, attempt / name)
        shutil.rmtree(attempt)
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])

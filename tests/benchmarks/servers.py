"""Servers: what a replica's HTTP server could be, each behind the edge, with the same layers, codec, batcher and net.

`http_server` is Shoal's own (deployments/server/http_server.py). uvicorn and granian serve the same ASGI application.
`granian_rsgi` has granian's own interface and `no_layers` the same protocol as `http_server`, both without ASGI and
without layers (no limits, deadlines, edge check): the lower bounds. All answer the edge's health check, `OPTIONS *`.
Client, edge and server share this machine's cores; only ratios matter. servers.md in this folder has what was measured.

    python tests/benchmarks/servers.py [--seconds 8] [--rounds 3] [--only uvicorn,http_server] [--json]
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httptools
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

# Python puts the script's folder first, where training.py would shadow the package.
sys.path[0] = str(Path(__file__).parents[2])

from cluster.local.ports import Ports
from deployments.access.authorization import Authorization
from deployments.edge.haproxy import HAProxy
from deployments.edge.state import CONTROL, EdgeState, Listen, Member, Route
from deployments.edge.template import Files, render_config, write_files
from deployments.models.served_model import ServedModel
from deployments.server.asgi import AsgiApp, Receive, Scope, Send
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp, compose_http
from deployments.server.routes import ModelRoutes
from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelEndpoint
from tests.benchmarks.benchmark_cluster import require_tools, run_wrk, write_wrk_script
from tests.benchmarks.serving import INFER, save_mlp
from tests.deployments.callers import PEPPER, TESTER, digest
from tests.deployments.server.captured_request import CapturedRequest

SERVERS = ("uvicorn", "granian", "http_server", "granian_rsgi", "no_layers")
CONNECTIONS = (1, 16, 64)
SECRET, KEY = "s" * 64, "k" * 64
START_TIMEOUT_S = 60.0
PORTS = Ports()


def main() -> None:
    """Measure, print a table, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each server")
    parser.add_argument("--only", default=",".join(SERVERS), help=f"servers to measure, of {', '.join(SERVERS)}")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--serve", nargs=3, metavar=("SERVER", "BUNDLE", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve(*arguments.serve))
        return
    require_tools(("granian", "pip install 'shoal[bench]'"))
    results: dict[str, dict[int, list[dict[str, float]]]] = {}
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        save_mlp(folder / "mlp")
        for number in range(arguments.rounds):
            for server in arguments.only.split(","):
                with console.status(f"round {number + 1} of {arguments.rounds}: {server}"):
                    by_connections = results.setdefault(server, {})
                    asyncio.run(measure(server, folder, arguments.seconds, by_connections))
    report(results, as_json=arguments.json)


async def measure(server: str, folder: Path, seconds: int, results: dict[int, list[dict[str, float]]]) -> None:
    """Run one server behind an edge, and wrk against it."""
    port, edge_port = PORTS.pick_free(), PORTS.pick_free()
    command = [sys.executable, __file__, "--serve", server, str(folder / "mlp"), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    edge = HAProxy(folder / "edge")
    try:
        await _start_edge(edge, folder / "edge", port, edge_port)
        await asyncio.to_thread(_wait_for_port, port)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{edge_port}/v2/models/mlp/infer"
        script = write_wrk_script(folder / "request.lua", url, json.dumps(INFER).encode(), headers)
        await asyncio.to_thread(run_wrk, script, 16, 2)
        for connections in CONNECTIONS:
            before = _cpu_s(process.pid)
            result = await asyncio.to_thread(run_wrk, script, connections, seconds)
            used_s = _cpu_s(process.pid) - before
            result["server_us"] = 1e6 * used_s / (result["requests_per_s"] * seconds)
            results.setdefault(connections, []).append(result)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        await edge.stop()


async def serve(name: str, bundle: str, port: str) -> None:
    """Serve the bundle with one of SERVERS, until killed."""
    import torch

    from training.bundle.verify import verify_bundle

    torch.set_num_threads(1)
    endpoint = ModelEndpoint(name="mlp", version=1, digest=verify_bundle(Path(bundle)).digest, uri=bundle)
    model = ServedModel(endpoint, Path(bundle).parent / "cache")
    app = compose_http(ModelRoutes(model), endpoint.limits, SECRET, Authorization())
    asgi_app = build_asgi_app(app)
    # As Serve does in a replica: otherwise the collector scans torch again and again.
    gc.collect()
    gc.freeze()
    if name == "http_server":
        await _serve_asyncio(HttpServer(app), int(port))
    elif name == "no_layers":
        await _serve_no_layers(model, int(port))
    elif name == "uvicorn":
        import uvicorn

        config = uvicorn.Config(
            asgi_app, port=int(port), loop="uvloop", http="httptools", access_log=False, lifespan="off"
        )
        await uvicorn.Server(config).serve()
    else:
        await _serve_granian(name, asgi_app, model, int(port))


def build_asgi_app(app: HttpApp) -> AsgiApp:
    """What Shoal's application would be as an ASGI application, for servers that have no other interface."""

    async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        body, more_body = b"", True
        while more_body:
            message = await receive()
            body, more_body = body + message.get("body", b""), message.get("more_body", False)
        status, response = await CapturedRequest(scope["path"], body, scope["headers"]).answer(app)
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(response))]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": response})

    return asgi_app


async def _serve_asyncio(server: HttpServer, port: int) -> None:
    await server.start("127.0.0.1", port)
    await asyncio.Event().wait()


async def _serve_no_layers(model: ServedModel, port: int) -> None:
    loop = asyncio.get_running_loop()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.parser, self.body = transport, httptools.HttpRequestParser(self), b""

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            if self.parser.get_method() == b"OPTIONS":
                self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                return
            body, self.body = self.body, b""
            self.task = loop.create_task(self.answer(body))

        async def answer(self, body: bytes) -> None:
            response, _ = await model.infer(body, None)
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(response), response))

    await loop.create_server(Protocol, "127.0.0.1", port)
    await asyncio.Event().wait()


async def _serve_granian(name: str, app: AsgiApp, model: ServedModel, port: int) -> None:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    async def answer(scope: Any, protocol: Any) -> None:
        if scope.method == "OPTIONS":
            protocol.response_empty(204, [])
            return
        response, _ = await model.infer(await protocol(), None)
        protocol.response_bytes(200, [("content-type", "application/json")], response)

    if name == "granian":
        server = Server(app, port=port, interface=Interfaces.ASGINL, log_enabled=False)
    else:
        server = Server(answer, port=port, interface=Interfaces.RSGI, log_enabled=False)
    await server.serve()


async def _start_edge(edge: HAProxy, folder: Path, port: int, edge_port: int) -> None:
    # HAProxy watches the process that a real edge's Ray would be.
    route, control = Route("mlp", 30.0), Route(CONTROL, 30.0)
    members = (Member("replica", route, f"127.0.0.1:{port}"), Member("control", control, f"127.0.0.1:{port}"))
    state = EdgeState(1, True, (route,), members, {digest(KEY): TESTER}, "", SECRET, PEPPER)
    files = Files(folder, edge.next_admin_socket())
    write_files(files, state, ServingSettings())
    listen = Listen("127.0.0.1", edge_port, PORTS.pick_free())
    await edge.start(render_config(state, ServingSettings(), listen, files))


def _wait_for_port(port: int) -> None:
    import socket

    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(1)  # a check of the edge
                return
        time.sleep(0.2)
    sys.exit(f"error: nothing listens on port {port} after {START_TIMEOUT_S:g} s")


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def report(results: dict[str, dict[int, list[dict[str, float]]]], *, as_json: bool) -> None:
    """Print medians as a table and, with --json, as JSON."""
    medians = {
        name: {c: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for c, runs in counts.items()}
        for name, counts in results.items()
    }
    table = Table(
        "server", *(f"c={c} req/s" for c in CONNECTIONS), "p50 c=1", "p99 c=64", "server's CPU, c=64", box=None
    )
    for name, counts in medians.items():
        table.add_row(
            name,
            *(f"{counts[c]['requests_per_s']:,.0f}" for c in CONNECTIONS),
            f"{counts[1]['p50_ms']:.2f} ms",
            f"{counts[64]['p99_ms']:.1f} ms",
            f"{counts[64]['server_us']:.0f} us",
        )
    Console().print(table)
    if as_json:
        print(json.dumps({"medians": medians, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()

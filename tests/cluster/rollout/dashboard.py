"""A stand-in for Ray's dashboard: a node, and Serve's REST API, whose applications run or fail at once."""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar


class Dashboard(BaseHTTPRequestHandler):
    """One node of 8 CPUs; Serve runs whatever it was told last, but versions of `broken`."""

    applications: ClassVar[dict[str, Any]] = {}
    broken: ClassVar[set[int]] = set()
    puts: ClassVar[int] = 0

    def do_PUT(self) -> None:
        config = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).applications = {a["name"]: self._run(a) for a in config["applications"]}
        type(self).puts += 1
        self._answer({})

    def _run(self, application: dict[str, Any]) -> dict[str, Any]:
        version = application["args"].get("endpoint", {}).get("version")
        status = "DEPLOY_FAILED" if version in self.broken else "RUNNING"
        return {"status": status, "config": application, "message": "ValueError: no memory"}

    def do_GET(self) -> None:
        if self.path.startswith("/api/v0/nodes"):
            self._answer({"data": {"result": {"result": [{"state": "ALIVE", "resources_total": {"CPU": 8.0}}]}}})
        else:
            self._answer({"applications": self.applications})

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

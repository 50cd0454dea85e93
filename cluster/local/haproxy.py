"""HAProxy wrapper: what Ray Serve starts as HAProxy; restricts Ray's configuration, then becomes the real binary.

Ray runs it in place of the binary (RAY_SERVE_HAPROXY_BINARY_PATH), for what Ray 2.60 has no switch for. It binds the
statistics and metrics pages, which Ray opens on every interface, to loopback. It sets Shoal's error body for statuses
that HAProxy makes itself. It lets HAProxy see that a caller disconnects, and tells replicas that Ray need not watch
each caller, since deployments/server/request_limits.py does. It drops log lines of successful requests. And it asks the
kernel to end HAProxy with its parent, since `ray stop` and a killed Ray leave it running and holding its ports.

Called as: python haproxy.py REAL_BINARY -db -f CONFIG [...]. Standard library only: it starts at every reload.
"""

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h

UNAVAILABLE = (
    b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Cache-Control: no-cache\r\nConnection: close\r\n\r\n"
    b'{"error": {"code": "unavailable", "message": "no replica can answer now; try again", "request_id": null}}\n'
)

# A caller must not decide whether it is watched.
FRONTEND = """\
    http-request del-header x-request-disconnect-disabled
    option dontlog-normal
"""
UNWATCHED = "    http-request set-header x-request-disconnect-disabled ?1 if {{ srv_is_up({backend}/{server}) }}\n"


def rewrite_config(config: str, error_file: Path) -> str:
    """Rewrite Ray's HAProxy configuration as the module says; idempotent."""
    for page in ("frontend prometheus", "listen stats"):
        # Also in a file that was rewritten before: HAProxy may be started twice on one file.
        config = _replace_once(page, rf"({page}\n\s*bind) (?:\*|127\.0\.0\.1)?:", r"\1 127.0.0.1:", config)
    config = _replace_once(
        "http_frontend", r"(?m)^(frontend http_frontend\n)", rf"\1{FRONTEND}", config.replace(FRONTEND, "")
    )
    # With request splicing HAProxy 2.8 stops reading from a caller whose body came in a packet of its own, and never
    # sees it disconnect, abortonclose or not.
    config = _replace_once(
        "splice-request", r"(?m)^( +)(?:no )?option splice-request$", r"\1no option splice-request", config
    )
    config = re.sub(r"(?ms)^backend (\S+)\n(.*?)(?=^\S|\Z)", _add_unwatched_rules, config)
    return re.sub(r"(?m)^(\s*errorfile 50[234]) .*$", rf"\1 {error_file}", config)


def _replace_once(name: str, pattern: str, replacement: str, config: str) -> str:
    config, count = re.subn(pattern, replacement, config)
    if count != 1:
        # No HAProxy at all is safer than one whose pages are open to everybody.
        raise SystemExit(f"Ray's HAProxy configuration has changed: {name} was found {count} times")
    return config


def _add_unwatched_rules(section: re.Match[str]) -> str:
    """Mark requests that go to a replica as unwatched; those to Ray's fallback proxy stay watched by it."""
    backend, lines = section.groups()
    lines = re.sub(r"(?m)^ *http-request set-header x-request-disconnect-disabled .*\n", "", lines)
    servers = [m[1] for m in re.finditer(r"(?m)^ *server (\S+) (?!.* backup *$).*$", lines)]
    rules = "".join(UNWATCHED.format(backend=backend, server=server) for server in servers)
    return f"backend {backend}\n{rules}{lines}"


def main(binary: str, *args: str) -> None:
    """Rewrite the configuration named after -f and become HAProxy."""
    file = Path(args[args.index("-f") + 1])
    error_file = file.with_name("unavailable.http")
    error_file.write_bytes(UNAVAILABLE)
    file.write_text(rewrite_config(file.read_text(), error_file))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *args])


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Audit event: who did what, from where, to what, what was before and after, and what came of it.

What callers and machines wrote is made safe for a terminal and for every database before it becomes part of a row.
"""

import hashlib
import json
import os
import pwd
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from training.settings import mask_passwords

AuditAction = Literal[
    "deploy",
    "apply",
    "scale",
    "undeploy",
    "refresh",
    "rollback",
    "canary",
    "promote",
    "abort",
    "models.publish",
    "models.alias",
    "models.delete",
    "models.sign",
    "trust.add",
    "trust.remove",
    "runs.delete",
    "train",
    "job.submit",
    "key.create",
    "key.rotate",
    "key.revoke",
    "key.update",
    "tenant.update",
    "setting",
    "up",
    "down",
    "access.refused",
]
"""refresh: a pipeline got the new signature of a model that it calls. canary, promote, abort: of a rollout."""

AuditOutcome = Literal["started", "succeeded", "failed", "interrupted", "superseded", "refused"]
"""A change that takes time has two rows: `started`, and another one when it has ended."""

ACTIONS: tuple[AuditAction, ...] = get_args(AuditAction)

CLUSTER = "cluster"
"""The actor of what nobody asked for, as where a change is finished whose command was killed."""

MAX_TEXT, MAX_VALUE_BYTES = 1000, 4096


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where.

    Attributes:
        name: of a key's caller, as tenant/name; `user@host` of a command line.
        source: an address, or of a command line how the user came to this machine.
    """

    name: str
    source: str = ""

    @classmethod
    def current(cls) -> "Actor":
        """The user of this process: by its uid, which no variable changes, unlike the login name."""
        uid = os.getuid()
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = "unknown"  # a user id without a name, as in a container
        source = f"uid {uid}"
        if sudo_user := os.environ.get("SUDO_USER"):
            source += f", sudo by {sudo_user}"
        if connection := os.environ.get("SSH_CONNECTION"):
            source += f", ssh from {connection.split()[0]}"
        return cls(f"{user}@{socket.gethostname()}", source)


@dataclass(frozen=True)
class AuditEvent:
    """One row's content, but for its number, time and signer.

    Attributes:
        actor: see Actor.name.
        source: see Actor.source.
        action: what was asked for.
        target: what it was asked of: a model, a key's id, a path.
        outcome: what came of it.
        operation: the same for both rows of a change; empty where there is one row.
        before: a small JSON value that says what was; None for nothing. No payload, no secret.
        after: what is then, or shall be.
        message: why it failed, or what there is to say.
        request_id: of the request that asked for it.
    """

    actor: str
    source: str
    action: AuditAction
    target: str
    outcome: AuditOutcome
    operation: str = ""
    before: Any = None
    after: Any = None
    message: str = ""
    request_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """The event with all that is in it made safe, bounded and exact; see clean_value."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: _bound(clean_value(value)) if name in ("before", "after") else clean_text(value)
            for name, value in values.items()
        }


def clean_text(text: str) -> str:
    """Bound a text and replace what is not printable: it would act on a terminal, and NUL is in no PostgreSQL text."""
    printable = "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))
    masked = mask_passwords(printable)
    return masked if len(masked) <= MAX_TEXT else masked[: MAX_TEXT - 1] + "…"


def clean_value(value: Any) -> Any:
    """Make a JSON value exact: a float becomes its shortest text, whose form no two languages would write alike."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): clean_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [clean_value(each) for each in value]
    if value is None or isinstance(value, bool | int):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON")


def canonicalize(value: Any) -> str:
    """JSON in one form only, as RFC 8785 has it for texts, whole numbers, and keys of ASCII.

    What is no JSON, as bytes that somebody wrote into a column, gets a form too, which no valid row has.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)


def digest_text(text: str) -> str:
    """The hex sha256 of a text; also of one that is no valid Unicode."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def describe_spec(spec: str | None) -> Any:
    """What a row says of a deployment: its JSON, but for examples in a pipeline's signatures, and its digest."""
    if spec is None:
        return None
    value = json.loads(spec)
    if isinstance(value.get("endpoint"), dict):
        value["endpoint"].pop("signatures", None)
    return {"sha256": digest_text(spec), "spec": value}


def _bound(value: Any) -> Any:
    text = canonicalize(value)
    if len(text.encode()) <= MAX_VALUE_BYTES:
        return value
    digest = value["sha256"] if isinstance(value, dict) and "sha256" in value else digest_text(text)
    return {"sha256": digest, "omitted_bytes": len(text.encode())}

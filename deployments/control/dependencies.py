"""Dependencies of the control application's routes: who calls, and who is written down for a change.

Request walk: app.py -> [dependencies.py] -> deployments.access.caller
"""

from collections.abc import Callable
from functools import cache
from typing import Annotated

from fastapi import Depends, Request

from deployments.access.audit.event import Actor
from deployments.access.audit.log import AuditLog
from deployments.access.audit.recorder import ChangeRecorder
from deployments.access.caller import Caller
from deployments.server.asgi import REQUEST
from deployments.settings import ServingSettings

SOURCE_HEADER = "x-shoal-source"
"""In which the edge tells from which address a request of these paths comes."""


def get_caller(request: Request) -> Caller:
    """The caller of a request."""
    caller: Caller = request.scope[REQUEST].caller
    return caller


def get_actor(request: Request) -> Actor:
    """Who changes something, for the audit log."""
    return Actor(get_caller(request).name, request.headers.get(SOURCE_HEADER, ""))


def build_recorder_dependency(settings: ServingSettings) -> Callable[[Request], ChangeRecorder]:
    """Build what makes the recorder of a request's changes; the log is opened once, at the first change."""

    @cache
    def open_audit() -> AuditLog:
        return AuditLog.open(settings)

    def get_recorder(request: Request) -> ChangeRecorder:
        return ChangeRecorder(open_audit, get_actor(request), request.headers.get("x-request-id", ""))

    return get_recorder


CallerOf = Annotated[Caller, Depends(get_caller)]
"""A parameter of a route: its caller."""

ActorOf = Annotated[Actor, Depends(get_actor)]
"""A parameter of a route: who is written down."""

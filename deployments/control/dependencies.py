"""Dependencies of the control application's routes: who calls, and who is written down for a change.

Request walk: app.py -> [dependencies.py] -> deployments.access.caller
"""

from typing import Annotated

from fastapi import Depends, Request

from deployments.access.audit.event import Actor
from deployments.access.caller import Caller
from deployments.server.asgi import REQUEST

SOURCE_HEADER = "x-shoal-source"
"""In which the edge tells from which address a request of these paths comes."""


def get_caller(request: Request) -> Caller:
    """The caller of a request."""
    caller: Caller = request.scope[REQUEST].caller
    return caller


def get_actor(request: Request) -> Actor:
    """Who changes something, for the audit log."""
    return Actor(get_caller(request).name, request.headers.get(SOURCE_HEADER, ""))


CallerOf = Annotated[Caller, Depends(get_caller)]
"""A parameter of a route: its caller."""

ActorOf = Annotated[Actor, Depends(get_actor)]
"""A parameter of a route: who is written down."""

"""The paths of a rollout, below /api/v1/deployments/NAME/rollout: its evidence, its promotion, its end.

Request walk: app.py -> [rollouts.py] -> deployments.state.canary_store
A promotion or abortion is asked for; the controller of rollouts brings it about.
"""

from functools import cache
from typing import Any, Literal

from fastapi import FastAPI

from deployments.access.scopes import Action
from deployments.control.dependencies import ActorOf, CallerOf
from deployments.control.openapi import CATALOG_TAG
from deployments.errors import Conflict, NotFound
from deployments.rollout.canary import Canary
from deployments.settings import ServingSettings
from deployments.state.canary_store import CanaryStore

PATH = "/api/v1/deployments/{name}/rollout"
_STARTED = ("starting", "running")


def add_rollout_routes(api: FastAPI, settings: ServingSettings) -> None:
    """Add the paths. They are plain functions, which FastAPI runs in threads: the database may be slow."""

    @cache
    def open_store() -> CanaryStore:
        return CanaryStore.open(settings)

    @api.get(PATH, tags=[CATALOG_TAG], summary="Get a rollout")
    def get_rollout(name: str, caller: CallerOf) -> dict[str, Any]:
        """A model's last rollout: its step, and how the two versions compare. Asks for `read:NAME`."""
        caller.check(Action.READ, name)
        return _describe(_find(open_store(), name))

    @api.post(PATH + "/{what}", tags=[CATALOG_TAG], summary="End a rollout", status_code=202)
    def end_rollout(name: str, what: Literal["promote", "abort"], caller: CallerOf, actor: ActorOf) -> dict[str, Any]:
        """Ask for the new version to take the model's place, or to be taken away. Asks for `deploy:NAME`."""
        caller.check(Action.DEPLOY, name)
        store = open_store()
        canary = _find(store, name)
        if canary.ended_s is not None or (what == "promote" and canary.state.phase not in _STARTED):
            last = f"{name}:{canary.spec.version}, is {canary.state.phase.replace('_', ' ')}"
            raise Conflict(f"no rollout of {name} can be ended so; the last one, {last}")
        store.request(canary.id, what, actor)
        return _describe(canary) | {"requested": what}


def _find(store: CanaryStore, name: str) -> Canary:
    canary = store.get_last(name)
    if canary is None:
        raise NotFound(f"{name!r} has had no rollout; `shoal deploy {name}:VERSION --canary 5%` begins one")
    return canary


def _describe(canary: Canary) -> dict[str, Any]:
    return canary.model_dump(mode="json") | {"percent": canary.percent}

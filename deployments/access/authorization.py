"""Authorization: whether the caller's key allows what a request asks of a model, before its body is taken.

Request walk: deployments.server.edge_check -> [authorization.py] -> deployments.server.request_limits
A pipeline's nodes are called in its own name: who may call the pipeline need not be allowed its models.
"""

from deployments.access.scopes import Action
from deployments.server.request import Request

# /v2/models/NAME and /api/v1/models/NAME, as the control application's routes have them.
_MODEL_PATHS = (("/v2/models/", 3), ("/api/v1/models/", 4))


class Authorization:
    """Refuses requests that the caller's key does not allow."""

    def __init__(self, model: str = "") -> None:
        """Make a layer.

        Args:
            model: that the server serves; empty where the path names it. Of paths that name none, the routes decide.
        """
        self._model = model

    def admit(self, request: Request) -> None:
        """Raise Forbidden where the key does not allow to read the model, or to have it compute."""
        model = self._model or find_model(request.path)
        if model:
            request.caller.check(Action.READ if request.method == "GET" else Action.PREDICT, model)

    def leave(self, request: Request) -> None:
        """Nothing is left."""


class RequiredAction:
    """Refuses requests of callers whose keys do not allow one action; of a server that does nothing else."""

    def __init__(self, action: Action) -> None:
        self._action = action

    def admit(self, request: Request) -> None:
        """Raise Forbidden where the key does not allow the action."""
        request.caller.check(self._action)

    def leave(self, request: Request) -> None:
        """Nothing is left."""


def find_model(path: str) -> str:
    """The model that a path names, decoded as routes see it; empty for none."""
    for prefix, field in _MODEL_PATHS:
        if path.startswith(prefix):
            return path.split("/")[field]
    return ""

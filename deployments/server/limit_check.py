"""Limit check: what a request takes of its caller's limits, before its handler runs.

Request walk: request_limits.py -> [limit_check.py] -> deployments.access.limits.accounts -> routes.py
A caller without limits costs a look-up; one with limits waits where this process holds nothing for it.
"""

from collections.abc import Awaitable

from deployments.access.limits.accounts import CURRENT_CHARGE, Accounts, Charge
from deployments.server.request import Handler, Request, Response


class LimitCheck:
    """Charges requests that have something computed."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def admit(self, request: Request) -> None:
        """Nothing: a request is charged once all of it is here."""

    def leave(self, request: Request) -> None:
        """Settle what the request has used."""
        if request.charge is not None:
            request.charge.finish(is_counted(request.status))

    def wrap(self, handler: Handler) -> Handler:
        """Charge each request before a handler runs."""
        accounts = self._accounts

        def handle(request: Request) -> Awaitable[Response | None] | None:
            account = accounts.find(request.caller)
            if account is None or request.method != "POST":
                if CURRENT_CHARGE.get() is not None:
                    # Of the request before on this connection.
                    CURRENT_CHARGE.set(None)
                return handler(request)
            charge = request.charge = Charge(account)
            CURRENT_CHARGE.set(charge)
            if charge.try_admit():
                return handler(request)
            request.needs_task = True
            return _admit(charge, handler, request)

        return handle


async def _admit(charge: Charge, handler: Handler, request: Request) -> Response | None:
    await charge.admit()
    response = handler(request)
    return None if response is None else await response


def is_counted(status: int) -> bool:
    """Whether a request of this status counts: not one that was refused for now, or failed by the service's fault."""
    return status != 429 and status < 500

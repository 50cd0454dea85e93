"""Accounts: the allowances of each caller in this process, what each request takes of them, and their exchange.

Request walk: deployments.server.limit_check -> [accounts.py] -> allowances.py -> leasing.py
A caller without limits costs a look-up. One with limits waits for the ledger with its first request, then takes from
what the process holds. Where the ledger does not answer, callers with limits are refused once that is gone.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar

from deployments.access.caller import Caller
from deployments.access.limits.allowances import ASK_AGAIN_S, LEAST_COMPUTE_S, Allowance, build_allowance
from deployments.access.limits.fields import Fields, build_refusal, encode_tightest
from deployments.access.limits.leasing import Lease, LeaseRequest, Policies, name_key, name_tenant
from deployments.access.limits.limit import Dimension, read_limits
from deployments.access.limits.weights import set_weights
from deployments.errors import LimitsUnavailable

Exchange = Callable[[Sequence[LeaseRequest]], Awaitable[list[Lease]]]
Watch = Callable[[int], Awaitable[Policies]]

RETRY_S = 0.2
# The ledger's own time, and that of its database.
EXCHANGE_TIMEOUT_S = 2.0
# Weight of the last request in the estimate of what the next one computes.
_SMOOTHING = 0.1
logger = logging.getLogger("ray.serve")


class Account:
    """One caller's allowances: those of its key and those of its tenant, which other keys share.

    Attributes:
        by_dimension: the allowances.
        compute_s: what a request is estimated to compute.
    """

    def __init__(self, allowances: Sequence[Allowance]) -> None:
        self.by_dimension: dict[Dimension, list[Allowance]] = defaultdict(list)
        for allowance in allowances:
            self.by_dimension[allowance.limit.dimension].append(allowance)
        self.all = tuple(allowances)
        self.compute_s = LEAST_COMPUTE_S
        admission = (Dimension.REQUESTS, Dimension.CONCURRENT)
        self._admission = tuple(each for dimension in admission for each in self.by_dimension[dimension])
        self._compute = tuple(self.by_dimension[Dimension.COMPUTE_S])

    def list_needs(self, is_node: bool) -> list[tuple[Allowance, float]]:
        """What a request takes before it is decoded; a pipeline's node computes, the request is the pipeline's."""
        needs = [] if is_node else [(allowance, 1.0) for allowance in self._admission]
        return needs + [(allowance, self.compute_s) for allowance in self._compute] if self._compute else needs


class Charge:
    """What one request has taken.

    Attributes:
        compute_s: seconds of passes, its share of each.
        generated: tokens, less those that were estimated.
    """

    __slots__ = ("_account", "_compute_estimate_s", "_is_finished", "_is_node", "_taken", "compute_s", "generated")

    def __init__(self, account: Account, *, is_node: bool = False) -> None:
        self._account, self._is_node = account, is_node
        self._compute_estimate_s = account.compute_s
        self._taken: list[tuple[Allowance, float, float]] = []
        self.compute_s = 0.0
        self.generated = 0
        self._is_finished = False

    def try_admit(self) -> bool:
        """Take what a request takes before it is decoded, where it is held here.

        Raises:
            LimitExceeded: the ledger has just said that there is no more.
        """
        return self._try_take(self._account.list_needs(self._is_node))

    async def admit(self) -> None:
        """Take it, from the ledger where it is not held here.

        Raises:
            LimitExceeded: there is not enough.
            LimitsUnavailable: the ledger does not answer.
        """
        await self._take(self._account.list_needs(self._is_node))

    def try_take_content(self, rows: int, tokens: int, generated: int = 0) -> bool:
        """Take what a decoded request has, where it is held here.

        Args:
            rows: of the request.
            tokens: of its texts.
            generated: tokens at most.

        Raises:
            LimitExceeded: the ledger has just said that there is no more.
        """
        needs = self._list_content(rows, tokens + generated)
        if not self._try_take(needs):
            return False
        self.generated -= generated
        return True

    async def take_content(self, rows: int, tokens: int, generated: int = 0) -> None:
        """Take it, from the ledger where it is not held here.

        Raises:
            LimitExceeded: there is not enough.
            LimitsUnavailable: the ledger does not answer.
        """
        await self._take(self._list_content(rows, tokens + generated))
        self.generated -= generated

    def _list_content(self, rows: int, tokens: int) -> list[tuple[Allowance, float]]:
        by_dimension = self._account.by_dimension
        needs = [] if self._is_node else [(allowance, float(rows)) for allowance in by_dimension[Dimension.ROWS]]
        return needs + [(allowance, float(tokens)) for allowance in by_dimension[Dimension.TOKENS] if tokens]

    def _try_take(self, needs: list[tuple[Allowance, float]]) -> bool:
        for allowance, amount in needs:
            if not allowance.has(amount):
                if allowance.is_refused():
                    raise build_refusal(allowance, amount)
                return False
        for allowance, amount in needs:
            allowance.take(amount)
            self._taken.append((allowance, amount, allowance.window_s))
        return True

    async def _take(self, needs: list[tuple[Allowance, float]]) -> None:
        if self._try_take(needs):
            return
        futures = [allowance.wait(amount) for allowance, amount in needs]
        try:
            results = await asyncio.gather(*futures, return_exceptions=True)
        except asyncio.CancelledError:
            for (allowance, amount), future in zip(needs, futures, strict=True):
                if future.done() and not future.cancelled() and not future.exception() and future.result():
                    allowance.give_back(amount, allowance.window_s)
            raise
        refused: list[tuple[Allowance, float]] = []
        for need, result in zip(needs, results, strict=True):
            if result is True:
                self._taken.append((*need, need[0].window_s))
            elif result is False:
                refused.append(need)
        if refused:
            # The one that the caller waits for longest.
            raise build_refusal(*max(refused, key=lambda need: need[0].lease.reset_s))
        if any(isinstance(result, BaseException) for result in results):
            raise LimitsUnavailable("the ledger of limits does not answer, and this key has some; try again shortly")

    def finish(self, is_counted: bool) -> None:
        """Settle at the end of the request, however it came; places are free again.

        Args:
            is_counted: whether it counts: it was not refused, and has not failed by the service's fault.
        """
        if self._is_finished:
            return
        self._is_finished = True
        if is_counted:
            account = self._account
            account.compute_s += _SMOOTHING * (max(self.compute_s, LEAST_COMPUTE_S) - account.compute_s)
        for allowance, amount, window_s in self._taken:
            dimension = allowance.limit.dimension
            if dimension is Dimension.COMPUTE_S:
                # It was computed, whatever came of it.
                allowance.settle(self._compute_estimate_s, self.compute_s)
            elif dimension is Dimension.CONCURRENT or not is_counted:
                allowance.give_back(amount, window_s)
            elif dimension is Dimension.TOKENS and self.generated < 0:
                allowance.give_back(-float(self.generated), window_s)

    def encode_fields(self) -> Fields:
        """The RateLimit fields of its response."""
        return encode_tightest(self._account.all)


CURRENT_CHARGE: ContextVar[Charge | None] = ContextVar("charge", default=None)
"""Of the request that a task works for; None where its caller has no limits, or another process charges it."""


class Accounts:
    """The accounts of one process, and their exchange with the ledger."""

    def __init__(self, exchange: Exchange, watch: Watch) -> None:
        """Make them; they follow the limits after `start`.

        Args:
            exchange: settles and lends; see Ledger.exchange.
            watch: returns the policies once they are newer than a revision, or after a while.
        """
        self._exchange, self._watch = exchange, watch
        self._policies = Policies()
        self._accounts: dict[str, Account | None] = {}
        self._allowances: dict[tuple[str, str], Allowance] = {}
        self._retired: list[Allowance] = []
        # Of the exchanges of durable limits, and of others.
        self._wakes: dict[bool, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read the limits, and follow them; returns once they are known."""
        self._wakes = {is_durable: asyncio.Event() for is_durable in (True, False)}
        while True:
            try:
                self._follow(await self._watch(-1))
                break
            except Exception as error:
                logger.warning("the ledger of limits does not answer: %s", error)
                await asyncio.sleep(RETRY_S)
        runs = self._run_exchanges(True), self._run_exchanges(False), self._follow_policies()
        self._tasks = [asyncio.create_task(each) for each in runs]

    async def stop(self) -> None:
        """Give back what is held, and end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for allowance in self._allowances.values():
            allowance.is_retired = True
        with contextlib.suppress(Exception):
            for is_durable in (True, False):
                await self._exchange_once(is_durable)

    def find(self, caller: Caller) -> Account | None:
        """The account of a caller; None where neither its key nor its tenant has limits."""
        if not self._policies.limits:
            return None
        key_id = caller.key_id
        try:
            return self._accounts[key_id]
        except KeyError:
            account = self._accounts[key_id] = self._build(caller)
            return account

    def _build(self, caller: Caller) -> Account | None:
        allowances = []
        for subject in (name_key(caller.key_id), name_tenant(caller.tenant)):
            for limit in read_limits(self._policies.limits.get(subject, {})):
                key = subject, limit.name
                if key not in self._allowances:
                    self._allowances[key] = build_allowance(subject, limit, self._ask)
                allowances.append(self._allowances[key])
        return Account(allowances) if allowances else None

    def _ask(self, is_durable: bool) -> None:
        self._wakes[is_durable].set()

    def _follow(self, policies: Policies) -> None:
        self._policies = policies
        self._accounts.clear()
        set_weights(policies.weights)
        for (subject, name), allowance in list(self._allowances.items()):
            allowance.forget_refusal()
            if name not in policies.limits.get(subject, {}):
                del self._allowances[subject, name]
                allowance.is_retired = True
                self._retired.append(allowance)

    async def _follow_policies(self) -> None:
        while True:
            try:
                policies = await self._watch(self._policies.revision)
                if policies.revision != self._policies.revision:
                    self._follow(policies)
            except Exception as error:
                logger.warning("the ledger of limits does not answer: %s", error)
                await asyncio.sleep(RETRY_S)

    def _list_active(self, is_durable: bool) -> list[Allowance]:
        every = (*self._allowances.values(), *self._retired)
        return [each for each in every if each.is_durable is is_durable and each.has_news]

    async def _run_exchanges(self, is_durable: bool) -> None:
        wake = self._wakes[is_durable]
        while True:
            active = self._list_active(is_durable)
            # Without any, there is nothing to do until a request asks.
            timeout_s = min((each.exchange_s for each in active), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await wake.wait()
            wake.clear()
            is_answered = await self._exchange_once(is_durable)
            if any(each.is_waited_for for each in self._list_active(is_durable)):
                # Others hold what these requests wait for.
                asyncio.get_running_loop().call_later(ASK_AGAIN_S, wake.set)
            if not is_answered:
                await asyncio.sleep(RETRY_S)

    async def _exchange_once(self, is_durable: bool) -> bool:
        """Exchange what there is; False where the ledger has not answered."""
        active = self._list_active(is_durable)
        self._retired = [each for each in self._retired if each.has_news]
        if not active:
            return True
        requests = [each.build_request() for each in active]
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                leases = await self._exchange(requests)
        except Exception as error:
            logger.warning("the ledger of limits does not answer: %s", error)
            for each in active:
                each.fail(error)
            return False
        for allowance, lease in zip(active, leases, strict=True):
            allowance.apply(lease)
        return True

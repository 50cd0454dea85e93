"""Content of a decoded request: the rows and tokens that its caller's limits are charged with.

Request walk: served_model.py -> [content.py] -> deployments.access.limits.accounts
"""

from deployments.access.limits.accounts import CURRENT_CHARGE
from deployments.protocols.arrays import Rows
from deployments.protocols.predict.codec import PredictRequest
from training.bundle.manifest import Manifest
from training.schema import TextInput


class ContentCharge:
    """Charges the requests of one model for what they have."""

    def __init__(self, manifest: Manifest, *, is_generator: bool) -> None:
        """Make it.

        Args:
            manifest: of the model.
            is_generator: whether it continues texts.
        """
        self._has_tokens = isinstance(manifest.input_schema, TextInput)
        self._is_generator = is_generator

    def try_take(self, rows: Rows) -> bool:
        """Charge the rows of a request without a wait; False where that needs one.

        Raises:
            LimitExceeded: there is not enough.
        """
        charge = CURRENT_CHARGE.get()
        return charge is None or charge.try_take_content(len(rows), self._count_tokens(rows))

    async def take(self, rows: Rows) -> None:
        """Charge the rows of a request.

        Raises:
            LimitExceeded: there is not enough.
            LimitsUnavailable: the ledger does not answer.
        """
        if (charge := CURRENT_CHARGE.get()) is not None:
            await charge.take_content(len(rows), self._count_tokens(rows))

    async def take_request(self, request: PredictRequest) -> None:
        """Charge a request in the task's JSON form; of texts that are continued, the tokens that it asks for.

        Raises:
            LimitExceeded: there is not enough.
            LimitsUnavailable: the ledger does not answer.
        """
        charge = CURRENT_CHARGE.get()
        if charge is None:
            return
        if self._is_generator:
            prompts = [tokens for _, tokens in request.row_contexts]
            tokens = sum(len(prompt.ids) for prompt in prompts)
            await charge.take_content(len(prompts), tokens, len(prompts) * request.options.max_tokens)
        elif request.rows is None:
            await charge.take_content(request.options.samples, 0)
        else:
            await charge.take_content(len(request.rows), self._count_tokens(request.rows))

    def _count_tokens(self, rows: Rows) -> int:
        return sum(len(row) for row in rows) if self._has_tokens else 0

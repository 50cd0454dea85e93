"""What every node of a plan is to the others."""

from typing import Any, Protocol

from deployments.pipelines.call import Batch, Call, Raw
from training.words import Words


class Plan(Protocol):
    """A checked node.

    Attributes:
        path: where it stands, for messages: `step 2, member 1 (iris)`.
        takes: the words that its rows are in.
        gives: what it answers with; see signature.Gives.
        example: one row that works.
    """

    path: str
    takes: tuple[Words, ...]
    gives: Any
    example: Any

    async def run(self, batch: Batch, call: Call, top_k: int) -> list[Raw]:
        """Answer rows, one prediction for each, in their order; labels at most top_k."""

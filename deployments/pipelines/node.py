"""PlanNode: the base class of a pipeline plan's nodes: signature, example row, and how rows run through it."""

from typing import Any, Protocol

from deployments.pipelines.request_context import Raw, RequestContext, RowBatch
from training.schema import InputSchema


class PlanNode(Protocol):
    """A checked node.

    Attributes:
        path: its place in the pipeline, for messages: `node 2, member 1 (iris)`.
        inputs: input schemas; each row must be valid for all of them.
        output: output schema; a signature.PipelineOutput.
        example: a valid row.
    """

    path: str
    inputs: tuple[InputSchema, ...]
    output: Any
    example: Any

    async def run(self, batch: RowBatch, context: RequestContext, top_k: int) -> list[Raw]:
        """Predict.

        Args:
            batch: B rows.
            context: of the request.
            top_k: maximum number of labels in each prediction.

        Returns:
            B predictions, in the order of the rows.

        Raises:
            NodeError: a node failed.
        """

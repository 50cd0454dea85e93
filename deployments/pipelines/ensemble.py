"""Ensemble: one prediction from those of several models, by average or by vote."""
# Shapes: M members, C labels.

import math
from typing import Any

from deployments.pipelines.node import PlanNode
from deployments.pipelines.request_context import (
    ALL_LABELS,
    Raw,
    RequestContext,
    RowBatch,
    decode_json,
    encode_json,
    run_concurrently,
)
from deployments.specs.pipeline import Ensemble
from deployments.specs.signature import describe_output, merge_inputs, outputs_match, reduce_to_model_output
from training.errors import UserError
from training.schema import ClassOutput, NumberOutput


class EnsemblePlan:
    """Members that run concurrently."""

    def __init__(self, path: str, ensemble: Ensemble, members: list[PlanNode]) -> None:
        self.path, self._members = path, members
        self.inputs = merge_inputs(path, [(member.path, member.inputs) for member in members])
        self.example = members[0].example
        self.output: Any = _check_outputs(path, ensemble, members)
        weights = ensemble.weights or (1.0,) * len(members)
        self._weights = [weight / sum(weights) for weight in weights]
        self._method = ensemble.method

    async def run(self, batch: RowBatch, context: RequestContext, top_k: int) -> list[Raw]:
        """See PlanNode; a member that fails ends the request, since the others' result would be another ensemble's."""
        member_predictions = await run_concurrently(member.run(batch, context, ALL_LABELS) for member in self._members)
        return [
            encode_json(self._combine([decode_json(prediction) for prediction in row], top_k))
            for row in zip(*member_predictions, strict=True)
        ]

    def _combine(self, predictions: list[Any], top_k: int) -> dict[str, Any]:
        """Combine the M members' predictions for one row."""
        if isinstance(self.output, NumberOutput):
            name = self.output.name
            return {name: sum(w * each[name] for w, each in zip(self._weights, predictions, strict=True))}
        means = average_scores(self.output.labels, [each["scores"] for each in predictions], self._weights)
        scores = means
        if self._method == "vote":
            scores = dict.fromkeys(self.output.labels, 0.0)
            for weight, prediction in zip(self._weights, predictions, strict=True):
                scores[prediction["label"]] += weight
        # Sums of the same weights in another order differ in the last bits: such ties are broken by the mean.
        best = sorted(scores, key=lambda label: (round(scores[label], 9), means[label]), reverse=True)[:top_k]
        return {"label": best[0], "score": scores[best[0]], "scores": {label: scores[label] for label in best}}


def _check_outputs(path: str, ensemble: Ensemble, members: list[PlanNode]) -> ClassOutput | NumberOutput:
    """Check that the members' outputs can be combined; returns the schema of the result."""
    first, *others = members
    output = reduce_to_model_output(first.output)
    if not isinstance(output, ClassOutput | NumberOutput):
        raise UserError(
            f"{first.path} returns {describe_output(first.output)}; the members of an ensemble must return labels or "
            "numbers"
        )
    for member in others:
        if not outputs_match(output, reduce_to_model_output(member.output)):
            raise UserError(
                f"{member.path} returns {describe_output(member.output)}, but {first.path} returns "
                f"{describe_output(output)}; the members of an ensemble must return the same"
            )
    if isinstance(output, NumberOutput) and ensemble.method == "vote":
        raise UserError(f"{path}: numbers cannot vote; set `method: average`")
    return output


def average_scores(labels: tuple[str, ...], scores: list[dict[str, float]], weights: list[float]) -> dict[str, float]:
    """Compute the weighted mean of M members' scores for each of C labels.

    Args:
        labels: C of them.
        scores: M dictionaries, label to score.
        weights: M of them; they sum to 1.
    """
    return {
        label: math.fsum(weight * member_scores[label] for weight, member_scores in zip(weights, scores, strict=True))
        for label in labels
    }

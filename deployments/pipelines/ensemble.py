"""An ensemble: one answer out of several models', by average or by vote."""
# Shapes: M members, C labels.

import math
from typing import Any

from deployments.pipelines.call import (
    ALL_LABELS,
    Raw,
    RequestContext,
    RowBatch,
    decode_json,
    encode_json,
    run_concurrently,
)
from deployments.pipelines.node import PlanNode
from deployments.specs.pipeline import Ensemble
from deployments.specs.signature import common_output, describe_output, merge_inputs, same_output
from training.errors import UserError
from training.schema import ClassOutput, NumberOutput


class EnsemblePlan:
    """Members that are asked at once."""

    def __init__(self, path: str, ensemble: Ensemble, members: list[PlanNode]) -> None:
        self.path, self._members = path, members
        self.inputs = merge_inputs(path, [(member.path, member.inputs) for member in members])
        self.example = members[0].example
        first = common_output(members[0].output)
        if not isinstance(first, ClassOutput | NumberOutput):
            raise UserError(
                f"{members[0].path}: answers with {describe_output(members[0].output)}; an ensemble is of labels or numbers"
            )
        for member in members[1:]:
            if not same_output(first, common_output(member.output)):
                raise UserError(
                    f"{member.path}: answers with {describe_output(member.output)}, but {members[0].path} with {describe_output(first)}; "
                    "members must answer alike"
                )
        if isinstance(first, NumberOutput) and ensemble.method == "vote":
            raise UserError(f"{path}: numbers cannot vote; say `by: average`")
        self.output: Any = first
        weights = ensemble.weights or (1.0,) * len(members)
        self._weights = [weight / sum(weights) for weight in weights]
        self._votes = ensemble.method == "vote"

    async def run(self, batch: RowBatch, call: RequestContext, top_k: int) -> list[Raw]:
        """See node.Plan; a member that fails ends the request, since an answer of the others would be another one."""
        answers = await run_concurrently(member.run(batch, call, ALL_LABELS) for member in self._members)
        return [
            encode_json(self._one([decode_json(each) for each in row], top_k)) for row in zip(*answers, strict=True)
        ]

    def _one(self, said: list[Any], top_k: int) -> dict[str, Any]:
        """One row's answer out of its M members'."""
        if isinstance(self.output, NumberOutput):
            name = self.output.name
            return {name: sum(w * each[name] for w, each in zip(self._weights, said, strict=True))}
        means = mean(self.output.labels, [each["scores"] for each in said], self._weights)
        scores = means
        if self._votes:
            scores = dict.fromkeys(self.output.labels, 0.0)
            for weight, each in zip(self._weights, said, strict=True):
                scores[each["label"]] += weight
        # Sums of weights in another order differ in their last bits: those are ties, which the mean decides.
        best = sorted(scores, key=lambda label: (round(scores[label], 9), means[label]), reverse=True)[:top_k]
        return {"label": best[0], "score": scores[best[0]], "scores": {label: scores[label] for label in best}}


def mean(labels: tuple[str, ...], said: list[dict[str, float]], weights: list[float]) -> dict[str, float]:
    """The weighted mean of M members' scores for each of C labels; weights sum to 1."""
    return {
        label: math.fsum(weight * scores[label] for weight, scores in zip(weights, said, strict=True))
        for label in labels
    }

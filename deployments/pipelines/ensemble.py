"""An ensemble: one answer out of several models', by average or by vote."""
# Shapes: M members, C labels.

import math
from typing import Any

from deployments.pipelines.call import ALL_LABELS, Batch, Call, Raw, raw, together, value
from deployments.pipelines.node import Plan
from deployments.pipelines.signature import agreed, alike, plain, told
from deployments.pipelines.spec import Ensemble
from training.errors import Mistake
from training.words import Classes, Number


class EnsemblePlan:
    """Members that are asked at once."""

    def __init__(self, path: str, ensemble: Ensemble, members: list[Plan]) -> None:
        self.path, self._members = path, members
        self.takes = agreed(path, [(member.path, member.takes) for member in members])
        self.example = members[0].example
        first = plain(members[0].gives)
        if not isinstance(first, Classes | Number):
            raise Mistake(
                f"{members[0].path}: answers with {told(members[0].gives)}; an ensemble is of labels or numbers"
            )
        for member in members[1:]:
            if not alike(first, plain(member.gives)):
                raise Mistake(
                    f"{member.path}: answers with {told(member.gives)}, but {members[0].path} with {told(first)}; "
                    "members must answer alike"
                )
        if isinstance(first, Number) and ensemble.by == "vote":
            raise Mistake(f"{path}: numbers cannot vote; say `by: average`")
        self.gives: Any = first
        weights = ensemble.weights or (1.0,) * len(members)
        self._weights = [weight / sum(weights) for weight in weights]
        self._votes = ensemble.by == "vote"

    async def run(self, batch: Batch, call: Call, top_k: int) -> list[Raw]:
        """See node.Plan; a member that fails ends the request, since an answer of the others would be another one."""
        answers = await together(member.run(batch, call, ALL_LABELS) for member in self._members)
        return [raw(self._one([value(each) for each in row], top_k)) for row in zip(*answers, strict=True)]

    def _one(self, said: list[Any], top_k: int) -> dict[str, Any]:
        """One row's answer out of its M members'."""
        if isinstance(self.gives, Number):
            name = self.gives.name
            return {name: sum(w * each[name] for w, each in zip(self._weights, said, strict=True))}
        means = mean(self.gives.labels, [each["scores"] for each in said], self._weights)
        scores = means
        if self._votes:
            scores = dict.fromkeys(self.gives.labels, 0.0)
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

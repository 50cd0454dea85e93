"""Progress: one rollout's next state, from its last one and what replicas report; the rules, without Ray and database.

Rollout walk: controller.py -> [progress.py] -> comparison.py, evidence.py, traffic.py
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.edge.state import Member
from deployments.rollout.canary import Canary, CanaryState, StepRecord, Verdict
from deployments.rollout.comparison import Comparison
from deployments.rollout.evidence import describe_evidence, describe_verdict
from deployments.rollout.traffic import Traffic
from deployments.scaling.report import ReplicaReport

Reports = Sequence[tuple[Member, ReplicaReport]]

# A canary without a replica for so long has failed; Serve replaces one that died within seconds.
MAX_ABSENCE_S = 30.0


class Progress:
    """One rollout while a controller follows it."""

    def __init__(self, canary: Canary, comparison: dict[str, Any] | None = None) -> None:
        """Follow a rollout.

        Args:
            canary: as the store has it.
            comparison: the evidence so far; None for none.
        """
        self._spec = canary.spec
        self._comparison = Comparison(canary.spec.criteria, canary.spec.compared_steps)
        if comparison:
            self._comparison.load(comparison)
        self._traffic = Traffic(canary.spec)
        self._seen_s: float | None = None

    def dump(self) -> dict[str, Any]:
        """The evidence, for a controller that goes on."""
        return self._comparison.dump()

    def look(self, canary: Canary, reports: Reports, now_s: float) -> CanaryState:
        """Take what has been reported since the last look; returns the next state.

        Args:
            canary: as the store has it.
            reports: of the replicas that take requests.
            now_s: seconds since the epoch.
        """
        state, requested = canary.state, canary.requested
        if state.phase not in ("starting", "running"):
            return state
        if requested == "abort":
            return self._end(state, "aborted", "undecided", "by request", now_s)
        reports = [each for each in reports if self._is_compared(each[0])]
        names = {member.route.name for member, _ in reports}
        if self._spec.application in names:
            self._seen_s = now_s
        if state.phase == "starting":
            if self._spec.application not in names:
                return state
            state = state.model_copy(update={"phase": "running", "step_started_s": now_s})
        if requested == "promote":
            return self._end(state, "promoting", "undecided", "by request", now_s)
        pairs, agreements = self._traffic.count_pairs(reports)
        self._comparison.observe_pairs(np.asarray(pairs), np.asarray(agreements))
        self._comparison.observe(*self._traffic.take(reports))
        return self._decide(state, now_s)

    def _is_compared(self, member: Member) -> bool:
        """Whether a replica is of either version; one of an earlier rollout may still be there."""
        return member.route.name != self._spec.application or member.version == self._spec.version

    def fail(self, canary: Canary, reason: str, now_s: float) -> CanaryState:
        """The state of a rollout whose new version does not run."""
        return self._end(canary.state, "rolled_back", "worse", reason, now_s)

    def _decide(self, state: CanaryState, now_s: float) -> CanaryState:
        evidence = describe_evidence(self._comparison)
        state = state.model_copy(update={"evidence": evidence})
        self._seen_s = self._seen_s or now_s
        if now_s - self._seen_s > MAX_ABSENCE_S:
            reason = f"no replica of version {self._spec.version} has taken requests for {MAX_ABSENCE_S:g} s"
            return self._end(state, "rolled_back", "worse", reason, now_s)
        is_worse, has_passed = self._comparison.decide()
        if is_worse:
            return self._end(state, "rolled_back", "worse", describe_verdict(evidence, "worse"), now_s)
        verdict: Verdict = "better-or-equal" if has_passed else "undecided"
        reason = describe_verdict(evidence, verdict)
        if not has_passed or now_s - state.step_started_s < self._spec.min_step_s or not self._spec.steps:
            if has_passed and self._spec.steps:
                reason = f"{reason}; the step lasts {self._spec.min_step_s:g} s at least"
            return state.model_copy(update={"verdict": verdict, "reason": reason})
        if self._spec.steps[state.step + 1] == 100:
            return self._end(state, "promoting", verdict, reason, now_s)
        record = self._record(state, verdict, reason, now_s)
        self._comparison.begin_step(np.asarray(True))
        return state.model_copy(
            update={
                "step": state.step + 1,
                "step_started_s": now_s,
                "verdict": "undecided",
                "reason": "the step has just begun",
                "evidence": (),
                "history": (*state.history, record),
            }
        )

    def _end(self, state: CanaryState, phase: str, verdict: Verdict, reason: str, now_s: float) -> CanaryState:
        update: dict[str, Any] = {"phase": phase, "verdict": verdict, "reason": reason}
        if state.phase == "running":
            update["history"] = (*state.history, self._record(state, verdict, reason, now_s))
        return state.model_copy(update=update)

    def _record(self, state: CanaryState, verdict: Verdict, reason: str, now_s: float) -> StepRecord:
        return StepRecord(
            percent=self._spec.steps[state.step] if self._spec.steps else 0.0,
            started_s=state.step_started_s,
            ended_s=now_s,
            verdict=verdict,
            reason=reason,
            evidence=state.evidence,
        )

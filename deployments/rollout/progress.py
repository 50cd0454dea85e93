"""Progress: one rollout's next state, from its last one and what replicas report; the rules, without Ray and database.

Rollout walk: controller.py -> [progress.py] -> comparison.py, evidence.py, traffic.py
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from deployments.edge.state import Member
from deployments.rollout.canary import Canary, CanaryState, StepRecord, Verdict
from deployments.rollout.comparison import Comparison
from deployments.rollout.evidence import describe_evidence, describe_verdict
from deployments.rollout.traffic import Traffic
from deployments.scaling.report import ReplicaReport

Reports = Sequence[tuple[Member, ReplicaReport]]

# A canary without a replica for so long, while the old version has one, has failed: Serve replaces one that died within
# seconds. Before the first one it loads its net, as after `shoal up`, which may take as long as a deployment.
MAX_ABSENCE_S = 30.0
# Of the time between two looks: for longer, directory or database did not answer, and nobody knows who was there. Where
# the directory comes back, the canary's members may be the last that join again.
MAX_UNSEEN_S = 5.0


class Progress:
    """One rollout while a controller follows it."""

    def __init__(
        self, canary: Canary, comparison: dict[str, Any] | None = None, start_timeout_s: float = math.inf
    ) -> None:
        """Follow a rollout.

        Args:
            canary: as the store has it.
            comparison: the evidence so far, as `dump` returned it; None for none.
            start_timeout_s: seconds from the first look until a replica of the new version must have been seen.
        """
        self._spec = canary.spec
        self._start_timeout_s = start_timeout_s
        self._comparison = Comparison(canary.spec.criteria, canary.spec.compared_steps)
        self._step_age_s = 0.0
        if comparison:
            self._comparison.load(comparison)
            self._step_age_s = comparison.get("step_age_s", 0.0)
        # Evidence of an earlier step must not pass this one.
        while self._comparison.step < canary.state.step:
            self._begin_step()
        self._traffic = Traffic(canary.spec)
        self._looked_s: float | None = None
        self._has_seen_canary = False
        self._absent_s = 0.0

    def dump(self) -> dict[str, Any]:
        """The evidence and the step's age, for a controller that goes on."""
        return {**self._comparison.dump(), "step_age_s": self._step_age_s}

    def awaits_start(self, canary: Canary, reports: Reports) -> bool:
        """Whether the new version starts, or starts again, and has not been seen: then Serve knows whether it can."""
        if canary.state.phase == "starting":
            return True
        names = {member.route.name for member, _ in reports if self._is_compared(member)}
        return canary.state.phase == "running" and not self._has_seen_canary and self._spec.application not in names

    def look(self, canary: Canary, reports: Reports, now_s: float, clock_s: float) -> CanaryState:
        """Take what has been reported since the last look; returns the next state.

        Args:
            canary: as the store has it.
            reports: of the replicas that take requests.
            now_s: seconds since the epoch, for people: the clock may be set.
            clock_s: on a monotonic clock.
        """
        state, requested = canary.state, canary.requested
        if state.phase not in ("starting", "running"):
            return state
        if requested == "abort":
            return self._end(state, "aborted", "undecided", "by request", now_s)
        reports = [each for each in reports if self._is_compared(each[0])]
        names = {member.route.name for member, _ in reports}
        self._measure_time(state, names, clock_s)
        if absence := self._find_absence():
            return self._end(state, "rolled_back", "worse", absence, now_s)
        if state.phase == "starting":
            if self._spec.application not in names:
                return state
            self._step_age_s = 0.0
            state = state.model_copy(update={"phase": "running", "step_started_s": now_s})
        if requested == "promote":
            return self._end(state, "promoting", "undecided", "by request", now_s)
        pairs, agreements = self._traffic.count_pairs(reports)
        self._comparison.observe_pairs(np.asarray(pairs), np.asarray(agreements))
        self._comparison.observe(*self._traffic.take(reports))
        return self._decide(state, now_s)

    def _measure_time(self, state: CanaryState, names: Collection[str], clock_s: float) -> None:
        """Add the time since the last look to the step's age and to how long the new version has had no replica."""
        elapsed_s = 0.0 if self._looked_s is None else clock_s - self._looked_s
        self._looked_s = clock_s
        if state.phase == "running":
            self._step_age_s += elapsed_s
        if self._spec.application in names:
            self._has_seen_canary, self._absent_s = True, 0.0
        elif not self._has_seen_canary or self._spec.name in names:
            # Without the old version too, it is the cluster that does not run.
            self._absent_s += min(elapsed_s, MAX_UNSEEN_S)

    def _find_absence(self) -> str:
        """Why a version without a replica has failed; empty while it has not."""
        if self._has_seen_canary and self._absent_s > MAX_ABSENCE_S:
            return f"no replica of version {self._spec.version} has taken requests for {MAX_ABSENCE_S:g} s"
        if self._absent_s > self._start_timeout_s:
            return f"version {self._spec.version} is not up within {self._start_timeout_s:g} s"
        return ""

    def _begin_step(self) -> None:
        self._comparison.begin_step(np.asarray(True))
        self._step_age_s = 0.0

    def _is_compared(self, member: Member) -> bool:
        """Whether a replica is of either version; one of an earlier rollout may still be there."""
        return member.route.name != self._spec.application or self._spec.has_replica(member)

    def fail(self, canary: Canary, reason: str, now_s: float) -> CanaryState:
        """The state of a rollout whose new version does not run."""
        return self._end(canary.state, "rolled_back", "worse", reason, now_s)

    def _decide(self, state: CanaryState, now_s: float) -> CanaryState:
        evidence = describe_evidence(self._comparison)
        state = state.model_copy(update={"evidence": evidence})
        is_worse, has_passed = self._comparison.decide()
        if is_worse:
            return self._end(state, "rolled_back", "worse", describe_verdict(evidence, "worse"), now_s)
        verdict: Verdict = "better-or-equal" if has_passed else "undecided"
        reason = describe_verdict(evidence, verdict)
        if not has_passed or self._step_age_s < self._spec.min_step_s or not self._spec.steps:
            if has_passed and self._spec.steps:
                reason = f"{reason}; the step lasts {self._spec.min_step_s:g} s at least"
            return state.model_copy(update={"verdict": verdict, "reason": reason})
        if self._spec.steps[state.step + 1] == 100:
            return self._end(state, "promoting", verdict, reason, now_s)
        record = self._record(state, verdict, reason, now_s)
        self._begin_step()
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

"""Canary: what a rollout shall do, how far it is, and the evidence that it keeps.

Rollout walk: cluster.rollout.canary -> [canary.py] -> deployments.state.canary_store
"""

import re
from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator, model_validator

from deployments.edge.state import CANARY_SUFFIX, SPLIT_BUCKETS, Member
from deployments.rollout.criteria import Criteria
from deployments.specs.model_deployment import ModelDeployment
from training.schema import StrictModel

DEFAULT_STEPS = (5.0, 25.0, 50.0, 100.0)
Verdict = Literal["better-or-equal", "worse", "undecided"]
Phase = Literal["starting", "running", "promoting", "promoted", "rolled_back", "aborted"]
"""promoting: the version takes its model's place, replica by replica; its canary keeps the share that it had."""

# A header's name in lower case; none of Shoal's own. RFC 9110 has other characters too, such as quotes, which would
# begin a string in HAProxy's configuration: no edge could be changed any more, nor started.
_HEADER = re.compile(r"header:(?!x-shoal-)[a-z0-9._-]{1,64}")


class CanarySpec(StrictModel):
    """One rollout of a version beside the one that serves."""

    deployment: ModelDeployment = Field(description="What shall take its model's place.")
    stable_version: int = Field(ge=1, description="What serves.")
    steps: tuple[float, ...] = Field(
        DEFAULT_STEPS, description="Percent of the requests in each step; without any, it gets shadow copies alone."
    )
    split_by: str = Field(
        "caller",
        description="What decides which version answers: caller, request or header:NAME; one stays where it is.",
    )
    shadow_percent: float = Field(
        0.0, ge=0, le=100, description="Percent of the old version's requests that are copied to the new one."
    )
    min_step_s: float = Field(30.0, ge=0, description="Minimum seconds of a step.")
    criteria: Criteria = Criteria()
    author: str = ""
    reason: str = ""

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if steps and (list(steps) != sorted(set(steps)) or not 0 < steps[0] < 100 or steps[-1] != 100):
            percents = ",".join(f"{step:g}" for step in steps)
            raise ValueError(f"steps={percents} must rise from between 0 and 100 to 100; for example 5,25,50,100")
        for step, after in pairwise(steps):
            if not 0 < compute_weight(step) < compute_weight(after):
                raise ValueError(
                    f"steps: {step:.10g}% and {after:.10g}% are {compute_weight(step)} and {compute_weight(after)} of "
                    f"{SPLIT_BUCKETS:,} parts of the requests; a step is more than the one before and less than all, "
                    "so let them differ by 0.01 at least"
                )
        return steps

    @field_validator("split_by")
    @classmethod
    def _check_split(cls, split_by: str) -> str:
        if split_by not in ("caller", "request") and not _HEADER.fullmatch(split_by):
            raise ValueError(
                f"split={split_by!r} is none; it is caller, request, or header:NAME, a name of a-z, 0-9, ._-"
            )
        return split_by

    @model_validator(mode="after")
    def _check_traffic(self) -> "CanarySpec":
        if not self.steps and not self.shadow_percent:
            raise ValueError("a rollout needs requests: --canary PERCENT, --shadow PERCENT, or both")
        return self

    @property
    def name(self) -> str:
        """Of the model."""
        return self.deployment.name

    @property
    def version(self) -> int:
        """The new version."""
        return self.deployment.endpoint.version

    @property
    def application(self) -> str:
        """Name of the canary's Serve application; no model's, since those have no dot."""
        return get_application(self.name)

    def has_replica(self, member: Member) -> bool:
        """Whether a replica is of the new version; one of an earlier rollout of the model may still be there."""
        return member.route.name == self.application and member.version == self.version

    @property
    def compared_steps(self) -> int:
        """Steps in which both versions answer; with the last, which is 100%, the new one has passed."""
        return max(1, len(self.steps) - 1)


class SampleEvidence(StrictModel):
    """What one version did in this step.

    Attributes:
        total: requests, or answers.
        events: of them.
        low: lower bound of their rate, or, for a quantile, of its seconds; at all times, with 95%.
        high: upper bound.
        value: the rate, or the quantile in seconds; None where nothing was counted.
    """

    total: int
    events: int
    value: float | None
    low: float
    high: float


class MetricEvidence(StrictModel):
    """Evidence on one metric.

    Attributes:
        metric: errors, refusals, p50, p99 or agreement.
        stable: of the old version; None for agreement, which is of both.
        canary: of the new one.
        worse_evidence: e-value against "it is not worse", over the whole rollout.
        worse_at: where it is rolled back.
        noninferior_evidence: e-value against "it is worse by the margin", in this step.
        noninferior_at: where it is good enough.
        verdict: on this metric; None where it is shown only.
        missing: what is missing to a verdict.
    """

    metric: str
    stable: SampleEvidence | None
    canary: SampleEvidence
    worse_evidence: float | None = None
    worse_at: float | None = None
    noninferior_evidence: float | None = None
    noninferior_at: float | None = None
    verdict: Verdict | None = None
    missing: str = ""


class StepRecord(StrictModel):
    """A step that has ended."""

    percent: float
    started_s: float
    ended_s: float
    verdict: Verdict
    reason: str
    evidence: tuple[MetricEvidence, ...] = ()


class CanaryState(StrictModel):
    """How far a rollout is; times are seconds since the epoch."""

    phase: Phase = "starting"
    step: int = 0
    step_started_s: float = 0.0
    verdict: Verdict = "undecided"
    reason: str = ""
    evidence: tuple[MetricEvidence, ...] = ()
    history: tuple[StepRecord, ...] = ()


class Canary(StrictModel):
    """A rollout, as the store keeps it.

    Attributes:
        id: unique.
        spec: what it shall do.
        state: how far it is.
        requested: what a person has asked for, that is not done yet.
        started_s: seconds since the epoch.
        ended_s: when nothing of it was left; None before.
    """

    id: int
    spec: CanarySpec
    state: CanaryState
    requested: Literal["", "promote", "abort"]
    started_s: float
    ended_s: float | None

    @property
    def is_up(self) -> bool:
        """Whether the canary's replicas shall run."""
        return self.ended_s is None and self.state.phase in ("starting", "running", "promoting")

    @property
    def percent(self) -> float:
        """The canary's share of the requests, in percent."""
        # Also while it is promoted: its replicas are as many as that share took.
        is_answering = self.state.phase in ("running", "promoting")
        return self.spec.steps[self.state.step] if is_answering and self.spec.steps else 0.0

    @property
    def weight(self) -> int:
        """The same, of SPLIT_BUCKETS."""
        return compute_weight(self.percent)

    @property
    def shadow_percent(self) -> float:
        """Percent of the old version's requests that are copied now."""
        return self.spec.shadow_percent if self.state.phase == "running" else 0.0


def compute_weight(percent: float) -> int:
    """A share of the requests, of SPLIT_BUCKETS."""
    return round(percent * SPLIT_BUCKETS / 100)


def get_application(name: str) -> str:
    """The name of the application of a model's canary."""
    return name + CANARY_SUFFIX

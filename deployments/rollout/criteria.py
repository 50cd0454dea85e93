"""Criteria: what a new version must not be worse in, by how much, and with what certainty that is decided."""

from pydantic import Field

from training.schema import StrictModel


class Criteria(StrictModel):
    """What is compared, and with which margins."""

    error_margin: float = Field(
        0.01, gt=0, lt=1, description="By how much the error rate may be higher for a version to be promoted."
    )
    refusal_margin: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="By how much the share of 4xx may be higher: callers' mistakes need not come to both sides evenly.",
    )
    latency_ratio: float = Field(
        1.5, ge=1, description="How many times the old version's quantile of latency is not yet slow."
    )
    latency_slack_s: float = Field(
        0.005, ge=0, description="Nor is what takes so many seconds more: on a busy machine it tells nothing."
    )
    median_margin: float = Field(
        0.1, gt=0, lt=1, description="By how much the share of slow answers may be higher, of the half over the median."
    )
    tail_margin: float = Field(0.01, gt=0, lt=1, description="The same, of the hundredth over the p99.")
    min_agreement: float | None = Field(
        None, gt=0, lt=1, description="Share of answers to the same requests that must agree; None: it is shown only."
    )
    min_requests: int = Field(100, ge=1, description="Minimum requests to the new version in a step.")
    alpha: float = Field(
        0.05, gt=0, lt=1, description="Maximum probability that a version that is no worse is ever rolled back."
    )
    promote_alpha: float = Field(
        0.05, gt=0, lt=1, description="Maximum probability that one which is worse by a margin passes a step."
    )

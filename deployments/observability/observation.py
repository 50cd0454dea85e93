"""Observation: what the layers of one replica count into, and its tracer where tracing is on."""

from dataclasses import dataclass, field

from deployments.observability.tracing import ReplicaTracer
from deployments.scaling.report import RequestStatistics


@dataclass(frozen=True)
class Observation:
    """Of one replica.

    Attributes:
        statistics: of the requests from the edge.
        tracer: None where tracing is off: no layer is there for it then.
    """

    statistics: RequestStatistics = field(default_factory=RequestStatistics)
    tracer: ReplicaTracer | None = None

"""Traffic: from the totals that replicas report to what came of the requests of both versions since the last look.

Rollout walk: progress.py -> [traffic.py] -> comparison.py
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from deployments.edge.state import Member
from deployments.rollout.canary import CanarySpec
from deployments.rollout.comparison import Block
from deployments.rollout.sequential import Array
from deployments.scaling.report import BUCKETS, ReplicaReport

CALLER_LEFT = 499
_NO_COUNTS = (0,) * BUCKETS
_NOTHING = ReplicaReport(0.0, 0, {}, ())


class Traffic:
    """What each replica had reported at the last look, of requests from the edge and of calls by handles."""

    def __init__(self, spec: CanarySpec) -> None:
        self._spec = spec
        self._last: dict[str, ReplicaReport] = {}
        self._is_first = True

    def count_pairs(self, reports: Iterable[tuple[Member, ReplicaReport]]) -> tuple[int, int]:
        """How many answers to copies were compared since the last look, and how many of them agree; before `take`."""
        pairs = agreements = 0
        for member, report in reports:
            last = self._last.get(member.id)
            if member.route.name == self._spec.name and not self._is_first:
                pairs += report.copies.pairs - (last.copies.pairs if last else 0)
                agreements += report.copies.agreements - (last.copies.agreements if last else 0)
        return pairs, agreements

    def take(self, reports: Iterable[tuple[Member, ReplicaReport]]) -> tuple[Block, Block]:
        """The blocks of the old and of the new version since the last look; the first look only begins.

        A replica that came since counts from its start; what one did after its last report is lost with it.
        """
        counts = {self._spec.name: Counts(), self._spec.application: Counts()}
        for member, report in reports:
            if member.route.name not in counts:
                continue
            last = self._last.get(member.id)
            self._last[member.id] = report
            if not self._is_first:
                counts[member.route.name].add(report, last)
        self._is_first = False
        return counts[self._spec.name].build_block(), counts[self._spec.application].build_block()


class Counts:
    """Sums of one version's replicas."""

    def __init__(self) -> None:
        self._requests = self._failures = self._refusals = 0
        self._latencies = np.zeros(BUCKETS)

    def add(self, report: ReplicaReport, last: ReplicaReport | None) -> None:
        """Add what a replica did since its last report."""
        last = last or _NOTHING
        for source, before in ((report, last), (report.handle_calls, last.handle_calls)):
            self._add_responses(source.responses, before.responses)
            self._latencies += _subtract(source.latencies, before.latencies)
            self._latencies -= _subtract(source.excluded_latencies, before.excluded_latencies)
        # Probes would promote a version that nobody calls.
        self._add_responses(report.probe_responses, last.probe_responses, sign=-1)
        # A net that fails for valid rows is a 422, which by its status is a refusal too.
        self._failures += report.passes.failures - last.passes.failures

    def _add_responses(self, responses: Mapping[int, int], before: Mapping[int, int], sign: int = 1) -> None:
        for status, count in responses.items():
            # Who left before the answer tells nothing of it.
            if status != CALLER_LEFT:
                new = sign * (count - before.get(status, 0))
                self._requests += new
                self._failures += new if status >= 500 else 0
                self._refusals += new if 400 <= status < CALLER_LEFT else 0

    def build_block(self) -> Block:
        """The sums as a block of one rollout."""
        # Copies fail too, and are no requests.
        failures = min(self._failures, self._requests)
        return Block(np.asarray(self._requests), np.asarray(failures), np.asarray(self._refusals), self._latencies)


def _subtract(counts: Sequence[int], before: Sequence[int]) -> Array:
    return np.subtract(counts or _NO_COUNTS, before or _NO_COUNTS)

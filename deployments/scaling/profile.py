"""Profile: how long a forward pass of each number of rows lasts on one processor, and its cache.

Deploy walk: deployments.models.served_model -> [profile.py]
A replica chooses its rows per pass by it, and a plan its number of replicas. What depends on the latency goal is
computed from a profile, not kept in it.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from training.schema import StrictModel

# This share of the best throughput is enough: more rows would add latency for little.
MIN_THROUGHPUT_SHARE = 0.98

# A pass shorter than this gets more rows where that costs no throughput. Between two passes requests are decoded and
# responses encoded, about a millisecond of other work, whose code and data evict the net's from the caches.
MIN_PASS_S = 20e-3

PROFILES = "profiles"
"""Folder of profiles in a cache folder."""

CPU_INFO = Path("/proc/cpuinfo")


class PassTiming(StrictModel):
    """How long passes of one number of rows lasted, in seconds."""

    rows: int = Field(ge=1)
    passes: int = Field(ge=1, description="How many were timed.")
    min_s: float = Field(ge=0)
    mean_s: float = Field(ge=0)
    p50_s: float = Field(ge=0)
    p90_s: float = Field(ge=0)
    p99_s: float = Field(ge=0, description="The longest, where fewer than 100 were timed.")

    @classmethod
    def of(cls, rows: int, durations_s: Iterable[float]) -> Self:
        """Summarize the durations of passes; quantiles are durations that occurred."""
        ordered = sorted(durations_s)
        p50_s, p90_s, p99_s = (ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.5, 0.9, 0.99))
        mean_s = sum(ordered) / len(ordered)
        return cls(
            rows=rows, passes=len(ordered), min_s=ordered[0], mean_s=mean_s, p50_s=p50_s, p90_s=p90_s, p99_s=p99_s
        )

    @property
    def rows_per_s(self) -> float:
        """Rows per second of passes of this size, one after the other."""
        return self.rows / self.mean_s if self.mean_s else float("inf")


class ProfileKey(StrictModel):
    """What a profile is of; where any of it differs, passes last otherwise."""

    digest: str = Field(description="Of the bundle.")
    variant: str
    processor: str = Field(description="Model of the CPU, or of the GPU.")
    threads: int = Field(ge=0, description="Threads of a pass on CPUs; 0 on a GPU.")
    max_rows: int = Field(ge=1, description="Limit of rows per pass, the most that were timed.")
    torch: str

    @property
    def file_name(self) -> str:
        """Name of its file in the cache; those of one bundle begin alike."""
        return f"{self.digest[:16]}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]}.json"


class Profile(StrictModel):
    """The measured profile of one variant of a bundle on one processor."""

    key: ProfileKey
    passes: tuple[PassTiming, ...] = Field(min_length=1, description="By rows, ascending.")
    request_s: float | None = Field(
        None, ge=0, description="CPU seconds of the server for a request, beside the pass; None: not measured."
    )
    row_s: float | None = Field(
        None, ge=0, description="CPU seconds of the server for each row of a request, on top; None: not measured."
    )
    budget_s: float = Field(ge=0, description="Seconds that were given to timing; more means more passes of each size.")
    measured_at: float = Field(description="Unix time.")

    def estimate_pass_s(self, rows: int, *, p99: bool = False) -> float:
        """Estimate the duration of a pass, linear between the sizes that were timed.

        Args:
            rows: of the pass; more than were timed take proportionally longer.
            p99: whether the 99th percentile is estimated, in place of the mean.
        """
        sizes = [timing.rows for timing in self.passes]
        durations_s = [timing.p99_s if p99 else timing.mean_s for timing in self.passes]
        index = bisect_left(sizes, rows)
        if index == len(sizes):
            return durations_s[-1] * rows / sizes[-1]
        if sizes[index] == rows or index == 0:
            return durations_s[index]
        share = (rows - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
        return durations_s[index - 1] + share * (durations_s[index] - durations_s[index - 1])


def choose_pass_rows(passes: Sequence[PassTiming], slo_p99_s: float | None = None) -> int:
    """Choose the rows per pass: enough throughput, and long where that costs none; within the goal where there is one.

    A request that just missed a pass waits for that one and then for its own, so that two passes must fit into the goal
    (Shen et al., "Nexus", SOSP 2019, section 4.1). Where none fits, it is the shortest.

    Args:
        passes: timings, ascending by rows.
        slo_p99_s: goal for the 99th percentile of a request's latency.
    """
    if slo_p99_s is not None:
        # Larger passes are only more of what does not fit: noise in a timing must not let one in behind them.
        fitting = list(passes[:1])
        for timing in passes[1:]:
            if 2 * timing.p99_s > slo_p99_s:
                break
            fitting.append(timing)
        passes = fitting
    best_row_s = min(timing.min_s / timing.rows for timing in passes)
    efficient = [each for each in passes if best_row_s >= MIN_THROUGHPUT_SHARE * each.min_s / each.rows]
    return max((each.rows for each in efficient if each.min_s <= MIN_PASS_S), default=efficient[0].rows)


def describe_cpu() -> str:
    """The model of this machine's CPU, as the system calls it."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def build_key(digest: str, variant: str, max_rows: int) -> ProfileKey:
    """Build the key of a profile measured by this process: its processor and threads are torch's here."""
    import torch

    on_gpu = torch.cuda.is_available()
    return ProfileKey(
        digest=digest,
        variant=variant,
        processor=torch.cuda.get_device_name() if on_gpu else describe_cpu(),
        threads=0 if on_gpu else torch.get_num_threads(),
        max_rows=max_rows,
        torch=str(torch.__version__),
    )


class ProfileCache:
    """Profiles as files in a folder; one that cannot be read is none."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which need not exist."""
        self._folder = folder

    def load(self, key: ProfileKey) -> Profile | None:
        """Load the profile of a key; None where there is none, or its file is damaged."""
        profile = _read(self._folder / key.file_name)
        return profile if profile and profile.key == key else None

    def list_profiles(self, digest: str) -> list[Profile]:
        """List the profiles of a bundle, newest first."""
        files = self._folder.glob(f"{digest[:16]}-*.json")
        profiles = [profile for profile in map(_read, files) if profile and profile.key.digest == digest]
        return sorted(profiles, key=lambda profile: -profile.measured_at)

    def save(self, profile: Profile) -> None:
        """Save a profile in place of that of the same key."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / profile.key.file_name
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(profile.model_dump_json())
        # Rename is atomic: a reader sees the complete profile or none.
        unfinished.replace(file)

    def delete(self, key: ProfileKey) -> None:
        """Delete the profile of a key, so that the next replica measures it anew."""
        (self._folder / key.file_name).unlink(missing_ok=True)

    def load_or_measure(
        self, key: ProfileKey, budget_s: float, warm_up: Callable[[Sequence[PassTiming]], Sequence[PassTiming]]
    ) -> Profile:
        """Load a profile, or measure and save it; either way the net is warm.

        Args:
            key: of the profile.
            budget_s: seconds for timing; a profile that was given less is measured anew.
            warm_up: called with the timings that there are, or none; returns those, or what it measured.
        """
        if known := self._load_measured(key, budget_s):
            warm_up(known.passes)
            return known
        with self._lock(key):
            if known := self._load_measured(key, budget_s):
                warm_up(known.passes)
                return known
            profile = make_profile(key, warm_up(()), budget_s=budget_s)
            self.save(profile)
        return profile

    def _load_measured(self, key: ProfileKey, budget_s: float) -> Profile | None:
        profile = self.load(key)
        return profile if profile and profile.budget_s >= budget_s else None

    @contextlib.contextmanager
    def _lock(self, key: ProfileKey) -> Iterator[None]:
        """Let one process measure at a time: two would slow each other, and the second finds what the first saved."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / key.file_name).with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read(file: Path) -> Profile | None:
    try:
        return Profile.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def make_profile(key: ProfileKey, passes: Iterable[PassTiming], *, budget_s: float) -> Profile:
    """Make a profile that was measured now."""
    return Profile(key=key, passes=tuple(passes), budget_s=budget_s, measured_at=time.time())

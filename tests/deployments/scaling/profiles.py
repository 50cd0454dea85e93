"""Profiles with given durations, for tests of what follows from them."""

from deployments.scaling.profile import PassTiming, Profile, ProfileKey, make_profile

KEY = ProfileKey(digest="d" * 64, variant="fp32", processor="a processor", threads=1, max_rows=64, torch="2.13.0")


def build_profile(durations_s: dict[int, float], *, key: ProfileKey = KEY, budget_s: float = 1.0) -> Profile:
    """Build a profile whose passes always last as long, by rows."""
    return make_profile(
        key, [PassTiming.of(rows, [duration_s]) for rows, duration_s in durations_s.items()], budget_s=budget_s
    )


def build_affine_profile(fixed_s: float, row_s: float) -> Profile:
    """Build a profile whose passes last a fixed time, and more for each row."""
    return build_profile({rows: fixed_s + row_s * rows for rows in (1, 2, 4, 8, 16, 32, 64)})

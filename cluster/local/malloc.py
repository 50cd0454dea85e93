"""malloc: glibc tunables of the cluster's processes, so that a forward pass reuses the memory of the one before.

By default glibc returns a pass's memory to the system and takes it anew for the next, page by page, each zeroed by the
kernel: a tenth to a third of the time of forward and backward passes (tests/benchmarks/serving.md).
https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
"""

# Memory that a process keeps once it was used.
RETAINED_BYTES = 2**30

MALLOC = {
    "mmap_threshold": RETAINED_BYTES,
    "trim_threshold": RETAINED_BYTES,
    # One arena: those of threads, in one of which a replica's passes run, are limited to 64 MB.
    "arena_max": 1,
    # Huge pages, where the system grants them on request.
    "hugetlb": 1,
}
TUNABLES = ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items())

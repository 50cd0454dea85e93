"""Memory: what the cluster's processes tell glibc, so that a pass takes what the last one left.

As it comes, glibc returns a pass's memory to the system at its end and takes it anew for the next, page by page, each
to be zeroed by the kernel: a tenth to a third of what forward and backward passes take (tests/benchmarks/serving.md).
https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
"""

# So much stays with a process once it was used.
RETAINED_BYTES = 2**30

MALLOC = {
    "mmap_threshold": RETAINED_BYTES,
    "trim_threshold": RETAINED_BYTES,
    # One heap: those of threads, in one of which a replica's passes run, end at 64 MB.
    "arena_max": 1,
    # Large pages, where the system lets those have them who ask.
    "hugetlb": 1,
}
TUNABLES = ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items())

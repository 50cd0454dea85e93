"""The malloc settings of the cluster: a forward pass reuses the memory of the last one instead of new pages."""

import os
import subprocess
import sys

from cluster.local.malloc import TUNABLES

# Runs forward passes in a thread, as a replica does; prints the page faults of each.
COUNT_PAGE_FAULTS = """
import resource, torch
from concurrent.futures import ThreadPoolExecutor
torch.set_num_threads(1)
net, x = torch.nn.Conv2d(16, 16, 3), torch.rand(16, 16, 112, 112)

def run_passes(count):
    with torch.inference_mode():
        for _ in range(count):
            a = net(x)
            b = net(a)
            net(b)
            del a, b

with ThreadPoolExecutor(1) as thread:
    thread.submit(run_passes, 3).result()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread.submit(run_passes, 20).result()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


def count_page_faults(tunables: str) -> int:
    environment = os.environ | {"GLIBC_TUNABLES": tunables}
    result = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    return int(result.stdout)


def test_a_forward_pass_reuses_the_memory_of_the_last_one() -> None:
    assert count_page_faults("") > 100
    assert count_page_faults(TUNABLES) < 10

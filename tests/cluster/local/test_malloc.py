"""What the cluster tells glibc: a pass takes the memory that the last one left, and no new pages."""

import os
import subprocess
import sys

from cluster.local.malloc import TUNABLES

# Passes in a thread, as a replica's are; prints how many pages each took.
PASSES = """
import resource, torch
from concurrent.futures import ThreadPoolExecutor
torch.set_num_threads(1)
net, x = torch.nn.Conv2d(16, 16, 3), torch.rand(16, 16, 112, 112)

def passes(number):
    with torch.inference_mode():
        for _ in range(number):
            a = net(x)
            b = net(a)
            net(b)
            del a, b

with ThreadPoolExecutor(1) as thread:
    thread.submit(passes, 3).result()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread.submit(passes, 20).result()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


def pages(tunables: str) -> int:
    environment = os.environ | {"GLIBC_TUNABLES": tunables}
    done = subprocess.run([sys.executable, "-c", PASSES], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_pass_takes_the_memory_that_the_last_one_left() -> None:
    assert pages("") > 100
    assert pages(TUNABLES) < 10

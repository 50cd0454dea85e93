"""The short way into a replica leaves out steps of Ray's own, and does the rest."""

import inspect
from hashlib import sha256

from ray.serve._private import replica


def test_the_steps_that_are_shortened_are_those_that_were_read() -> None:
    steps = [
        replica.Replica._direct_ingress_asgi,
        replica.Replica._wrap_request,
        replica.Replica._start_request,
        replica.Replica._handle_errors_and_metrics,
        replica.Replica._record_errors_and_metrics,
    ]

    digest = sha256("".join(map(inspect.getsource, steps)).encode()).hexdigest()

    # Another Ray? Read these again, beside deployments/server/fast_path.py, then write its digest here.
    assert digest.startswith("2872a79727b7")

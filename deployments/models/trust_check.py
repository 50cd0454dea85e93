"""Trust check of a replica: it loads no bundle that the cluster's rule does not let it.

Deploy walk: replica.py -> [trust_check.py] -> training.provenance.verification
A command has checked the same before; a record may be older than the rule, or have been written past the commands.
"""

import asyncio
from pathlib import Path

from deployments.edge.membership import fetch_trust
from deployments.specs.model_deployment import ModelEndpoint


async def check_trust(endpoint: ModelEndpoint, cache: Path) -> None:
    """Raise UntrustedBundleError where a signature is required and none that counts is beside the bundle.

    Args:
        endpoint: names the bundle.
        cache: folder of downloaded bundles.
    """
    policy = await fetch_trust()
    if not policy.requires_signature:
        return
    from training.provenance.verification import fetch_provenance, require_trusted

    content = await asyncio.to_thread(fetch_provenance, endpoint.uri, cache / endpoint.digest)
    require_trusted(f"{endpoint.name}:{endpoint.version}", content, endpoint.digest, policy)

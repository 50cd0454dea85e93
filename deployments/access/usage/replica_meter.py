"""Replica meter: the outbox of a replica, which its pusher keeps empty; and the sweeper of a node's edge.

Deploy walk: deployments.models.replica -> [replica_meter.py] -> pusher.py, collector.py
"""

import ray

from deployments.access.usage.collector import push_to_collector
from deployments.access.usage.outbox import Outbox, OutboxSource
from deployments.access.usage.pusher import FOLDER, Pusher
from deployments.settings import ServingSettings


def open_pusher(model: str, version: int) -> Pusher:
    """Open the outbox of a replica and begin to push; where metering is off, only what is left is swept."""
    settings = ServingSettings()
    folder, usage = settings.home / FOLDER, settings.usage
    outbox = None
    if usage.metering:
        resources = ray.get_runtime_context().get_assigned_resources()
        source = OutboxSource(model, str(version), resources.get("CPU", 0.0), resources.get("GPU", 0.0))
        outbox = Outbox(folder, source, usage.outbox_bytes, keeps_ids=usage.trace_days > 0)
    pusher = Pusher(push_to_collector, folder, outbox)
    pusher.start()
    return pusher


def start_sweeper(settings: ServingSettings) -> Pusher:
    """Have what replicas of this node left pushed, from now on: the last one may have been killed."""
    pusher = Pusher(push_to_collector, settings.home / FOLDER)
    pusher.start()
    return pusher

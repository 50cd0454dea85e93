"""The edge: one HAProxy on each edge node, its configuration, and the directory of the replicas that it sends to.

Request walk: caller -> haproxy.cfg.j2 (in HAProxy) -> deployments.server.http_server
Deploy walk: deployments.models.replica -> membership.py -> directory.py -> edge.py -> haproxy.py
"""

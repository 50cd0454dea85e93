"""The edge: one HAProxy on each edge node, its configuration, and the directory of the replicas that it sends to.

Request walk: caller -> HAProxy
Deploy walk: replica_server -> membership -> directory -> edge -> template -> haproxy
"""

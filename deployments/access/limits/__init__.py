"""Limits: what a key and its tenant may use, by the second and by the month, over all replicas together."""

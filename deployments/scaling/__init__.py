"""Scaling: how many replicas there are, by what they report."""

"""Canary and shadow rollouts: a new version beside the old one, compared by a sequential test, then promoted or not."""

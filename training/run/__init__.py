"""The driver of a training run: preflight, Ray Train, progress, failure policy, publication."""

"""Evaluation: detection metrics, bootstrap intervals, calibration and plots, as functions of tensors and labels.

Knows nothing of recipes, tasks, bundles or workers, which build on it.
"""

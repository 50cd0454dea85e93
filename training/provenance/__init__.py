"""Provenance: who made a bundle, of what, and how: signed statements beside it, and whose signatures count.

Other packages use `Registry.sign_version` (training.registry.model_registry), trust.py (whose bundles are deployed) and
verification.py (what a bundle's statements are worth).
"""

"""Recipes: what is trained, as a closed model (spec.py); found by name or file and overridden key by key (load.py)."""

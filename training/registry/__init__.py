"""The registry: models, versions, aliases and runs, stored by MLflow, and the folders of their artifacts.

Other packages use `Registry` (model_registry.py), `RunHistory` (runs.py), and `Version` and `Run` (entities.py).
"""

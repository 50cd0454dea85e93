"""Preload: what a model's replica imports, at the start of its process, before Serve gives it a model.

Deploy walk: deployments.applications -> [preload.py] -> replica.py
Ray imports this module in each process that it starts (RAY_preload_python_modules, cluster.local.ray_environment); the
runtime environment says for which of them it imports the rest. So a process that waits for a model
(deployments.scaling.warm_processes) has done the longest part of a cold start.
"""

import gc
import importlib
import os
import time
from pathlib import Path

from deployments.edge.state import EDGE_DIR_VARIABLE

PRELOAD_VARIABLE = "PRELOAD_MODEL_REPLICA"
RUNTIME_ENV = {"env_vars": {PRELOAD_VARIABLE: "1"}}
"""Of a model's replica, and of a process that waits for one: Ray gives an actor an idle process of the same."""

MODULES = ("deployments.models.replica", "deployments.models.served_model")

# Of this process: when the imports began and ended, by time.time(); 0 where there were none.
started_s = ended_s = 0.0


def preload() -> None:
    """Import what serves a model, and say that this process waits for one."""
    global started_s, ended_s
    started_s = time.time()
    # A full collection visits all that was imported so far, in vain; together they take a quarter of the time.
    gc.disable()
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    ended_s = time.time()
    folder = warm_folder()
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()


def warm_folder() -> Path:
    """The folder in which each process of this node that waits for a model has a file, named by its id."""
    return Path(os.environ[EDGE_DIR_VARIABLE]).with_name("warm")


def leave_warm_processes() -> None:
    """Say that this process has a model."""
    (warm_folder() / str(os.getpid())).unlink(missing_ok=True)


if os.environ.get(PRELOAD_VARIABLE):
    preload()

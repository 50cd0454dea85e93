"""Jobs: a training run that the cluster itself drives, through Ray's job API.

What it runs is `python -m training`, the same walk as `shoal train`.
"""

import logging
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.lifecycle import Cluster, travelling
from cluster.settings import Settings
from training.errors import Failure, Mistake
from training.options import Options
from training.recipe import builtin_names

POLL_S = 0.5


def submit(
    settings: Settings,
    cluster: Cluster,
    recipe: str,
    overrides: list[str],
    options: Options,
    resume: str | None,
    console: Console,
) -> None:
    """Submit a run, show what it prints, and return when it has published.

    Raises:
        Mistake: no such recipe, or the job says that the recipe is wrong.
        Failure: the job ends without a bundle.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    from training.registry import Registry
    from training.runs import Runs

    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
    runtime_env: dict[str, Any] = {}
    if resume:
        recipe = Runs(Registry(settings)).unfinished(resume).origin
    if recipe not in builtin_names():
        file = Path(recipe)
        if not file.is_file():
            raise Mistake(
                f"no recipe {recipe!r}; ready ones: {', '.join(builtin_names())}; or give a path to a .py file"
            )
        runtime_env = travelling(file.resolve().parent)
        recipe = file.name
    command = ["python", "-m", "training", recipe]
    for override in overrides:
        command += ["--set", override]
    command += options.command_line()
    if resume:
        command += ["--resume", resume]
    client = JobSubmissionClient(cluster.dashboard)
    job = client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime_env)
    console.print(f"job {job}", highlight=False)
    shown = 0
    while True:
        status = client.get_job_status(job)
        logs = client.get_job_logs(job)
        console.out(logs[shown:], end="", highlight=False)
        shown = len(logs)
        if status.is_terminal():
            break
        time.sleep(POLL_S)
    if status != JobStatus.SUCCEEDED:
        info = client.get_job_info(job)
        kind = Mistake if info.driver_exit_code == 2 else Failure
        raise kind(f"job {job} ended as {status}; `ray job logs {job}` keeps what it said")

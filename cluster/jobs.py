"""Jobs: a training run that the cluster itself drives, through Ray's job API.

What it runs is `python -m training`, the same walk as `shoal train`.
"""

import logging
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.local.lifecycle import Cluster, runtime_env_for
from cluster.settings import Settings
from training.errors import ServiceError, UserError
from training.recipe.load import list_builtin_recipes
from training.run.options import RunOptions

POLL_S = 0.5


def submit(
    settings: Settings,
    cluster: Cluster,
    recipe: str,
    overrides: list[str],
    options: RunOptions,
    resume: str | None,
    console: Console,
) -> None:
    """Submit a run, show what it prints, and return when it has published.

    Raises:
        Mistake: no such recipe, or the job says that the recipe is wrong.
        Failure: the job ends without a bundle.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    from training.registry.model_registry import Registry
    from training.registry.runs import RunHistory

    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
    runtime_env: dict[str, Any] = {}
    if resume:
        recipe = RunHistory(Registry(settings)).find_resumable(resume).origin
    if recipe not in list_builtin_recipes():
        file = Path(recipe)
        if not file.is_file():
            raise UserError(
                f"no recipe {recipe!r}; ready ones: {', '.join(list_builtin_recipes())}; or give a path to a .py file"
            )
        runtime_env = runtime_env_for(file.resolve().parent)
        recipe = file.name
    command = ["python", "-m", "training", recipe]
    for override in overrides:
        command += ["--set", override]
    command += options.to_arguments()
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
        kind = UserError if info.driver_exit_code == 2 else ServiceError
        raise kind(f"job {job} ended as {status}; `ray job logs {job}` keeps what it said")

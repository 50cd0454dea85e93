"""Jobs: a training run that the cluster itself drives, through Ray's job API.

Its entry point is `python -m training.run`, which takes the same path as `shoal train`.
"""

import logging
import shlex
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from rich.console import Console

from cluster.local.ray_environment import bypass_proxies
from cluster.local.running_cluster import Cluster
from cluster.recipe_code import collect_code
from cluster.settings import Settings
from training.errors import ServiceError, UserError
from training.recipe.load import load_recipe, override_recipe
from training.recipe.spec import Files, Recipe
from training.run.options import RunOptions

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_INTERVAL_S = 0.5


def submit(
    settings: Settings,
    cluster: Cluster,
    recipe: str,
    overrides: list[str],
    options: RunOptions,
    resume: str | None,
    console: Console,
) -> None:
    """Submit a run, show its output, and return when it has published.

    Raises:
        UserError: no such recipe, or the job says that the recipe is wrong.
        ServiceError: the job ends without a bundle.
    """
    if resume:
        from training.registry.model_registry import Registry
        from training.registry.runs import RunHistory

        recipe = RunHistory(Registry(settings)).find_resumable(resume).origin
    loaded = override_recipe(load_recipe(recipe), overrides)
    code = collect_code(loaded, recipe)
    if options.gpus:
        from cluster.rollout.serve_api import ServeApi

        with ServeApi(settings, cluster) as serve:
            options.reject_missing_gpus(serve.count_gpus(), autoscales=cluster.autoscales)
    script = str(code.recipe_file) if code else recipe
    command = build_command(script, loaded, overrides, options, resume)

    # Ray, which takes half a second to import: after the recipe is known to be sound.
    from ray.job_submission import JobSubmissionClient

    from deployments.access.audit.log import AuditLog

    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
    bypass_proxies(cluster.client_host)
    client = JobSubmissionClient(cluster.dashboard_url)
    if code:
        console.print(code.describe(), highlight=False, markup=False, soft_wrap=True)
    with AuditLog.open(settings).record("job.submit", loaded.name, after={"command": command}) as change:
        with code.staged() if code else nullcontext() as folder:
            runtime_env = {"working_dir": str(folder)} if folder else None
            job = client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime_env)
        console.print(f"job {job}", highlight=False)
        change.after |= {"job": job}
        _follow(client, job, console)


def build_command(
    script: str, recipe: Recipe, overrides: list[str], options: RunOptions, resume: str | None
) -> list[str]:
    """Build the job's entry point.

    Args:
        script: name of a ready recipe, or of its file in the folder that is sent.
        recipe: as it is here, with the overrides.
        overrides: `key=value`.
        options: of the run.
        resume: the run to resume, which has a recipe of its own.
    """
    command = ["python", "-m", "training.run", script]
    settings = list(overrides)
    if isinstance(recipe.data, Files):
        # A job runs in a folder of its own, where a relative path would name nothing.
        settings.append(f"data.path={recipe.data.path}")
    for setting in settings if not resume else []:
        command += ["--set", setting]
    command += options.to_arguments()
    return [*command, "--resume", resume] if resume else command


def _follow(client: "JobSubmissionClient", job: str, console: Console) -> None:
    """Print a job's output until it ends; raises where it did not succeed."""
    from ray.job_submission import JobStatus

    printed = 0
    while True:
        status = client.get_job_status(job)
        logs = client.get_job_logs(job)
        console.out(logs[printed:], end="", highlight=False)
        printed = len(logs)
        if status.is_terminal():
            break
        time.sleep(POLL_INTERVAL_S)
    if status != JobStatus.SUCCEEDED:
        info = client.get_job_info(job)
        error = UserError if info.driver_exit_code == 2 else ServiceError
        raise error(f"job {job} ended as {status}; `shoal logs {job}` shows its output")

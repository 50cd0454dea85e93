"""`python -m training.run RECIPE`: a run as one job, for `ray job submit` and for `shoal train --submit`.

Train walk: cluster.jobs -> [__main__.py] -> driver.py
Does what `shoal train` does, in a process that Ray started on the cluster. Exits with 0 only if it published a bundle.
"""

import argparse
import logging
import signal
import sys

import ray
from pydantic import ValidationError
from rich.console import Console

from training.errors import ServiceError, UserError, summarize_validation_error
from training.recipe.load import list_builtin_recipes, load_recipe, override_recipe
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory
from training.run.driver import RunResult, train
from training.run.options import RunOptions, WorkerCount
from training.run.profile_report import render_profile
from training.run.progress_display import ProgressDisplay
from training.settings import TrainingSettings


def main() -> int:
    """Parse, train, print; returns the exit code."""
    arguments, console = _parse_arguments(), Console()
    try:
        result = _train(arguments, console)
    except ValidationError as error:
        return _fail(summarize_validation_error(error), 2)
    except (UserError, ConnectionError) as error:
        return _fail(str(error), 2)
    except ServiceError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    console.print(f"published {result.version}: {scores}", highlight=False)
    if arguments.profile:
        console.print(render_profile(result.final_report))
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.run", description=__doc__)
    parser.add_argument("recipe", help=f"one of {', '.join(list_builtin_recipes())}, or the path of a .py file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--workers", help="data-parallel workers: N, or MIN-MAX")
    parser.add_argument("--gpus", action="store_true", help="give every worker a GPU")
    parser.add_argument("--profile", action="store_true", help="report where the time of a step goes")
    parser.add_argument("--resume", metavar="RUN", help="resume this run of the recipe")
    return parser.parse_args()


def _train(arguments: argparse.Namespace, console: Console) -> RunResult:
    settings = TrainingSettings()
    workers = WorkerCount(bounds=arguments.workers) if arguments.workers else None
    options = RunOptions(workers=workers, gpus=arguments.gpus, profile=arguments.profile)
    recipe, run = override_recipe(load_recipe(arguments.recipe), arguments.set), None
    if arguments.resume:
        history = RunHistory(Registry(settings))
        run = history.find_resumable(arguments.resume)
        recipe = history.load_recipe(run)
    # In a job Ray sets the address of its cluster; elsewhere this finds one that runs on this machine.
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    # `ray job stop` sends SIGTERM, for which Ray installs a handler; with this one the run is recorded as KILLED.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressDisplay(recipe, console) as display:
        return train(recipe, settings, options=options, resume=run, origin=arguments.recipe, on_message=display.show)


def _fail(message: str, exit_code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())

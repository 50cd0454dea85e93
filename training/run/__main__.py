"""`python -m training RECIPE`: a whole run as one job, for `ray job submit` and for `shoal train --submit`.

The same walk as `shoal train`, in a process that Ray started on the cluster. Exit code 0 only if it published a bundle.
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
from training.run.driver import train
from training.run.options import RunOptions, WorkerCount
from training.run.profile_report import render_profile
from training.run.progress_display import ProgressDisplay
from training.settings import TrainingSettings


def main() -> int:
    """Parse, train, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("recipe", help=f"one of {', '.join(list_builtin_recipes())}, or the path of a .py file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe's key")
    parser.add_argument("--workers", help="data-parallel workers: N, or MIN-MAX")
    parser.add_argument("--gpus", action="store_true", help="give every worker a GPU")
    parser.add_argument("--profile", action="store_true", help="say where the time of a step goes")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run of the recipe")
    args = parser.parse_args()
    console, settings = Console(), TrainingSettings()
    try:
        workers = WorkerCount(bounds=args.workers) if args.workers else None
        options = RunOptions(workers=workers, gpus=args.gpus, profile=args.profile)
        recipe, run = override_recipe(load_recipe(args.recipe), args.set), None
        if args.resume:
            runs = RunHistory(Registry(settings))
            run = runs.find_resumable(args.resume)
            recipe = runs.load_recipe(run)
        # Inside a job Ray names its own cluster; anywhere else this looks for one that runs on this machine.
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        # `ray job stop` ends a run so; its record then says that it was stopped. Ray has a handler of its own there.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with ProgressDisplay(recipe, console) as progress:
            outcome = train(recipe, settings, options=options, resume=run, origin=args.recipe, on_message=progress.show)
    except (UserError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValidationError as error:
        print(f"error: {summarize_validation_error(error)}", file=sys.stderr)
        return 2
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    scores = ", ".join(f"{name} {value:.4f}" for name, value in outcome.metrics.items())
    console.print(f"published {outcome.version}: {scores}", highlight=False)
    if args.profile:
        console.print(render_profile(outcome.final_report))
    return 0


if __name__ == "__main__":
    sys.exit(main())

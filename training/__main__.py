"""`python -m training RECIPE`: a whole run as one job, for `ray job submit` and for `shoal train --submit`.

The same walk as `shoal train`, in a process that Ray started on the cluster. Exit code 0 only if it published a bundle.
"""

import argparse
import logging
import sys

import ray
from pydantic import ValidationError
from rich.console import Console

from training.closed import one_line
from training.errors import Failure, Mistake
from training.progress import TrainingProgress
from training.recipe import builtin_names, load_recipe, override
from training.run import train
from training.settings import TrainingSettings


def main() -> int:
    """Parse, train, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("recipe", help=f"one of {', '.join(builtin_names())}, or the path of a .py file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe's key")
    parser.add_argument("--workers", type=int, help="data-parallel workers")
    parser.add_argument("--gpus", action="store_true", help="give every worker a GPU")
    args = parser.parse_args()
    console = Console()
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers is {args.workers}; make it 1 or more")
    try:
        recipe = override(load_recipe(args.recipe), args.set)
        # Inside a job Ray names its own cluster; anywhere else this looks for one that runs on this machine.
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        with TrainingProgress(recipe, console) as progress:
            outcome = train(recipe, TrainingSettings(), workers=args.workers, gpus=args.gpus, on_report=progress.show)
    except (Mistake, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValidationError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    scores = ", ".join(f"{name} {value:.4f}" for name, value in outcome.metrics.items())
    console.print(f"published {outcome.version}: {scores}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Entry point of `shoal`: Ctrl-C ends it without a traceback, during imports too."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from cluster.cli.app import main as run
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

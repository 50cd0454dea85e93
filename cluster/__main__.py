"""The `shoal` command's first line: Ctrl-C while everything else is still being imported is no traceback either."""

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

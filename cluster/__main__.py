"""Entry point of `shoal`: Ctrl-C ends it without a traceback, during imports too; text is UTF-8 in any locale."""

import os
import sys


def main() -> None:
    """Run the command line."""
    if sys.getfilesystemencoding() != "utf-8":
        # The locale's encoding is another: files and names would be misread.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    try:
        from cluster.cli.app import main as run

        run()
    except KeyboardInterrupt:  # while it is imported, or a second one while the first is told
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

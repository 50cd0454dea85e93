"""Entry point of `shoal`: Ctrl-C ends it without a traceback, during imports too; text is UTF-8 in any locale."""

import os
import sys


def main() -> None:
    """Run the command line."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding().lower() == "utf-8":
        _use_utf8()
    try:
        from cluster.cli.app import main as run

        run()
    except KeyboardInterrupt:  # while it is imported, or a second one while the first is told
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: files and names would be misread."""
    import locale

    if locale.getencoding().lower().replace("-", "") not in ("utf8", "cp65001"):
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()

"""The command line: arguments in, text out, no logic."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, or 1 failure, 2 usage, 3 partly failed, 130 interrupted."""
    try:
        # Loaded here, as the modules of this package import each other by its name.
        from iepile_cli.cli.app import run

        code = run(arguments)
    except KeyboardInterrupt:
        # Before the program was loaded, or while it ended.
        sys.stderr.write("iepile: interrupted\n")
        code = 130
    sys.exit(code)

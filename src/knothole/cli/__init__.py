"""The command line: one file per command, imported when the command is used."""

from __future__ import annotations

import sys


def main() -> None:
    """What the ``knothole`` program runs; ends the process with the command's exit code."""
    try:
        from knothole.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were loaded
        code = 130
    sys.exit(code)

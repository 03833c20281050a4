"""The command line: one file per command, imported when the command is used."""

from __future__ import annotations

import sys


def main() -> None:
    """What the ``knothole`` program runs; ends the process with the command's exit code."""
    from knothole.cli.app import run

    sys.exit(run(sys.argv[1:]))

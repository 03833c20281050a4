"""What commands print: lines for people, or with ``--json`` one object per line for programs."""

from __future__ import annotations

import json as json_module
import sys
from typing import TextIO


class Failure(Exception):
    """The command failed; the text is the one line that the user sees."""


class WrongUsage(Exception):
    """The command line makes no sense; the text says what would."""


class Output:
    """Results go to stdout, everything else to stderr.

    With ``json`` every line is an object with an ``event`` that names it.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def result(self, event: str, text: str, **facts: object) -> None:
        """A result: ``text`` for a person, ``event`` with ``facts`` for a program."""
        self._print(sys.stdout, event, text, facts)

    def note(self, event: str, text: str, **facts: object) -> None:
        """Something on the side: to stderr, so that stdout stays what the command is for."""
        self._print(sys.stdout if self.json else sys.stderr, event, text, facts)

    def aside(self, event: str, text: str, **facts: object) -> None:
        """To stderr even with ``json``: for commands whose stdout is somebody's data."""
        if text or self.json:
            self._print(sys.stderr, event, text, facts)

    def error(self, text: str) -> None:
        """Why it failed, on stderr."""
        if self.json:
            print(json_module.dumps({"event": "error", "text": text}), file=sys.stderr, flush=True)
        else:
            print(f"knothole: {text}", file=sys.stderr, flush=True)

    def _print(self, file: TextIO, event: str, text: str, facts: dict[str, object]) -> None:
        line = json_module.dumps({"event": event, **facts}) if self.json else text
        print(line, file=file, flush=True)

"""What commands print: lines for people, or with ``--json`` one object per line for programs."""

from __future__ import annotations

import contextlib
import json as json_module
import sys
from collections.abc import Iterator
from typing import Protocol, TextIO

from knothole.cli.shown import shown


class Failure(Exception):
    """The command failed; the text is the one line that the user sees."""


class WrongUsage(Exception):
    """The command line makes no sense; the text says what would."""


class BottomLine(Protocol):
    """A line that stays at the bottom of the terminal: a prompt, or how a call goes."""

    def hide(self) -> None: ...
    def show(self) -> None: ...


class Output:
    """Results go to stdout, everything else to stderr; with ``json`` both go to stdout.

    With ``json`` every line is an object with an ``event`` that names it. Text for people comes
    out as one line in which nothing is left that a terminal would obey, whoever wrote it. With
    ``stdout_is_data`` all goes to stderr: stdout is what the command carries.
    """

    def __init__(self, *, json: bool, stdout_is_data: bool = False) -> None:
        self.json = json
        self._stdout_is_data = stdout_is_data
        self._bottom: BottomLine | None = None
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:  # a terminal of another alphabet is no reason to fail
                reconfigure(errors="backslashreplace")

    def result(self, event: str, text: str, /, **facts: object) -> None:
        """A result: ``text`` for a person, ``event`` with ``facts`` for a program.

        Without text it is for programs only.
        """
        self._print(sys.stderr if self._stdout_is_data else sys.stdout, event, text, facts)

    def note(self, event: str, text: str, /, **facts: object) -> None:
        """Something on the side, so that stdout stays what the command is for."""
        aside = self._stdout_is_data or not self.json
        self._print(sys.stderr if aside else sys.stdout, event, text, facts)

    def error(self, text: str) -> None:
        """Why it failed, on stderr."""
        self._print(sys.stderr, "error", f"knothole: {text}", {"text": text})

    @contextlib.contextmanager
    def above(self, bottom: BottomLine) -> Iterator[None]:
        """Print above ``bottom`` meanwhile."""
        self._bottom = bottom
        bottom.show()
        try:
            yield
        finally:
            bottom.hide()
            self._bottom = None

    def _print(self, file: TextIO, event: str, text: str, facts: dict[str, object]) -> None:
        line = json_module.dumps({"event": event, **facts}) if self.json else shown(text)
        if not line:  # nothing to tell people
            return
        if self._bottom is not None:
            self._bottom.hide()
        print(line, file=file, flush=True)
        if self._bottom is not None:
            self._bottom.show()

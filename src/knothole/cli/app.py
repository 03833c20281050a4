"""Every command by name, and how their ends become exit codes.

0: success. 1: it failed, with one line on stderr that says why. 2: wrong usage. 130: Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from cyclopts import App, CycloptsError

from knothole import __version__
from knothole.cli.output import Failure, Output, WrongUsage

WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130

COMMANDS: Final = {
    "serve": "knothole.cli.serve:serve",
    "join": "knothole.cli.join:join",
    "status": "knothole.cli.status:status",
    "contacts": "knothole.cli.contacts:contacts",
    "listen": "knothole.cli.listen:listen",
    "pipe": "knothole.cli.pipe:pipe",
    "ping": "knothole.cli.ping:ping",
    "chat": "knothole.cli.chat:chat",
    "call": "knothole.cli.call:call",
    "lab": "knothole.cli.lab:app",
}


def make_app() -> App:
    """The command tree; a command's module is imported when it is run or its help is shown."""
    app = App(
        name="knothole",
        help="A line between two computers behind NATs: by name, direct, encrypted.",
        version=__version__,
        help_on_error=False,
        result_action="return_value",
    )
    for name, place in COMMANDS.items():
        app.command(place, name=name)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    output = Output(json="--json" in arguments)
    try:
        with _quiet_pipe():
            result = make_app()(list(arguments), exit_on_error=False, print_error=False)
        return result if isinstance(result, int) else 0
    except (CycloptsError, WrongUsage) as error:
        output.error(f"{_one_line(str(error))}\nTry: knothole {_command(arguments)}--help")
        return WRONG_USAGE
    except Failure as failure:
        output.error(str(failure))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _command(arguments: Sequence[str]) -> str:
    return f"{arguments[0]} " if arguments and arguments[0] in COMMANDS else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextlib.contextmanager
def _quiet_pipe() -> Iterator[None]:
    """`knothole ... | head` ends without a traceback."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

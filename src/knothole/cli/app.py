"""Every command by name, and how their ends become exit codes (docs/cli.md).

0: success. 1: it failed, with one line on stderr that says why. 2: wrong usage. And as shells
count signals: 130 Ctrl-C, 143 SIGTERM, 141 when whoever read our output has closed it.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from knothole import __version__
from knothole.cli.output import Failure, Output, WrongUsage

if TYPE_CHECKING:
    from cyclopts import App

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command is, ``module:attribute``, and what it is for, as its own help begins."""

    place: str
    summary: str


COMMANDS: Final = {
    "serve": Command("serve:serve", "Run a server: switchboard, STUN and TURN on one port number."),
    "invite": Command("invite:invite", "Make an invitation to your server, good for one new name."),
    "server": Command("server:app", "Run your server: who may use its relay, and how it does."),
    "join": Command("join:join", "Make an identity and register a name on a switchboard."),
    "status": Command("status:status", "Show who you are, on which server, what your NAT does."),
    "check": Command(
        "check:check",
        "What your NAT does, whom you reach directly, what would help.",
    ),
    "stun": Command("stun:stun", "Ask a STUN server what stands between it and you."),
    "contacts": Command("contacts:contacts", "List the people whose keys are remembered."),
    "listen": Command("listen:listen", "Be online and take calls and lines."),
    "call": Command("call:call", "Call NAME and talk."),
    "chat": Command("chat:chat", "Write to NAME and read the answers, line by line."),
    "pipe": Command("pipe:pipe", "Join stdin and stdout to NAME's, like netcat."),
    "ping": Command("ping:ping", "Open a line to NAME and measure it, probe by probe."),
    "diy": Command("diy:app", "Hole punching by hand: listen on a port, send from one, punch."),
    "why": Command("why:why", "Tell why a line to NAME is relayed or direct, and what was tried."),
    "audit": Command(
        "audit:audit", "Tell which ways lead out of this network and in, and how to close them."
    ),
    "turn-client": Command(
        "turn_client:app", "Try a TURN server, yours or another: allocate, echo, load."
    ),
    "lab": Command("lab:app", "Real NATs on this machine: a demo, a matrix, a shell."),
}

HELP: Final = """\
Usage: knothole COMMAND [OPTIONS]

A line between two computers behind NATs: by name, direct, encrypted.

Commands:
{commands}

Options:
  -h, --help  Show this, or after a command what it does, with an example.
  --version   Show the version.

Example: knothole serve                           (somewhere both of you can reach)
         knothole join alice --server 'knothole://...'
         knothole call bob

KNOTHOLE_HOME names the folder with your identity (default: the platform's place)."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    _open_missing_streams()
    output = Output(json="--json" in arguments)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except WrongUsage as error:
        output.error(f"{error} Try: knothole {_command(arguments)}--help")
        return WRONG_USAGE
    except Failure as failure:
        output.error(str(failure))
        return FAILED
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has shown ^C
        return INTERRUPTED
    except BrokenPipeError:
        # `knothole ... | head`: no traceback, neither now nor when Python flushes at its end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED


def help_text() -> str:
    """What ``knothole --help`` shows; written here because it must appear at once."""
    commands = "\n".join(f"  {name:<11} {each.summary}" for name, each in COMMANDS.items())
    return HELP.format(commands=commands)


def command_app(name: str) -> App:
    """The parser of one command, which alone is imported for it."""
    from cyclopts import App, Parameter

    module, _, attribute = COMMANDS[name].place.partition(":")
    app = App(
        name="knothole",
        version=__version__,
        version_flags=(),
        help_format="plaintext",
        group_parameters="Options",
        default_parameter=Parameter(negative=(), show_default=_is_worth_showing),
        help_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    command = getattr(import_module(f"knothole.cli.{module}"), attribute)
    functions = [command]
    if isinstance(command, App):
        functions = [command[each].default_command for each in command if each[0] != "-"]
    for function in functions:
        function.__doc__ = reflowed(function.__doc__ or "")
    app.command(command, name=name)
    return app


def _run(arguments: Sequence[str]) -> int:
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h"):
        print(help_text())
        return 0
    if first == "--version":
        print(f"knothole {__version__}")
        return 0
    if first not in COMMANDS:
        raise WrongUsage(_unknown(first))
    app = command_app(first)
    from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError

    try:
        result = app(list(arguments), exit_on_error=False, print_error=False)
    except MissingArgumentError as error:
        if error.keyword is not None:
            raise WrongUsage(f"{error.keyword} needs a value.") from error
        what = error.argument.name if error.argument is not None else "An argument"
        raise WrongUsage(f"{what} is missing.") from error
    except UnusedCliTokensError as error:
        words = " ".join(map(repr, error.unused_tokens or ()))
        raise WrongUsage(f"{words}: more words than {first} takes.") from error
    except CycloptsError as error:
        text = " ".join(str(error).split())
        raise WrongUsage(text if text.endswith((".", "?")) else f"{text}.") from error
    return result if isinstance(result, int) else 0


def _open_missing_streams() -> None:
    """A program started with closed descriptors has nothing to read and nobody to tell."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  as long as the program


def _unknown(word: str) -> str:
    if word.startswith("-"):
        return f"The command comes first; {word!r} is none."
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    return f"There is no command {word!r}." + (f" Do you mean {close[0]}?" if close else "")


def _command(arguments: Sequence[str]) -> str:
    """The command that was meant, as far as there is one, and a space behind it."""
    if not arguments or arguments[0] not in COMMANDS:
        return ""
    name, second = arguments[0], "".join(arguments[1:2])
    has_second = not second.startswith("-") and second in list(command_app(name)[name])
    return f"{name} {second} " if has_second else f"{name} "


def reflowed(docstring: str) -> str:
    """A docstring with one line for each paragraph: where to break lines, the terminal says.

    Headings of sections with their dashes, and names of parameters, stay lines of their own.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    joined: list[str] = []
    for line, before in zip(lines, ["", *lines], strict=False):
        indented = line.startswith(" ")
        goes_on = indented == before.startswith(" ") and line.strip() and before.strip()
        if goes_on and (indented or not (_is_heading(line) or _is_heading(before))):
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line)
    return "\n".join(joined)


def _is_heading(line: str) -> bool:
    return line == "Parameters" or set(line) == {"-"}


def _is_worth_showing(default: object) -> str | None:
    if default is None or default is False or default in ((), ""):
        return None
    return str(default.value if isinstance(default, enum.Enum) else default)

"""docs/tour.md, walked: its commands run in a lab, and what they print compared with the page.

A block of the kind ``console`` is a list of lines as a person sees them in terminals:

- ``$ knothole lab shell KIND KIND`` builds a lab;
- ``HOST# COMMAND`` runs a command there to its end, and the lines below are what it prints;
- ``HOST/N# COMMAND`` is a terminal of its own, in which the command may go on;
- ``HOST/N> TEXT`` is a line that has come up in that terminal since.

What varies from run to run stands in «guillemets». A line that is only ``...`` stands for lines
that are left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from knothole.lab.playground import Playground

PATIENCE_SECONDS: Final = 90.0
_COLUMNS: Final = 120
_LINES: Final = 50
_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BUILD: Final = re.compile(r"\$ knothole lab shell (\S+) (\S+)")
_COMMAND: Final = re.compile(r"([a-z-]+)(/\d)?# (.*)")
_CAME_UP: Final = re.compile(r"([a-z-]+/\d)> (.*)")
_VARIES: Final = re.compile("«.*?»")
LEFT_OUT: Final = "..."


@dataclass(frozen=True, slots=True)
class Build:
    """A lab with these two kinds of NAT."""

    line: int
    kinds: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Command:
    """Something typed at a host; ``console`` is the terminal in which it may go on."""

    line: int
    host: str
    console: str | None
    text: str
    printed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CameUp:
    """Lines that a command that goes on has printed since."""

    line: int
    console: str
    printed: list[str]


Step = Build | Command | CameUp


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading of the page and the steps below it, which begin with a lab of their own."""

    title: str
    steps: list[Step]


class TourRotten(AssertionError):
    """The page says one thing and the lab another; the text shows both."""


def chapters(page: str) -> list[Chapter]:
    """The chapters that have steps. Raises ValueError for a line that is none."""
    found = []
    headings = [*re.finditer(r"^## (.*)$", page, re.MULTILINE)]
    ends = [*(each.start() for each in headings[1:]), len(page)]
    for heading, end in zip(headings, ends, strict=True):
        steps: list[Step] = []
        for block in _BLOCK.finditer(page, heading.end(), end):
            first = page.count("\n", 0, block.start(1)) + 1
            _read_block(block[1].splitlines(), first, steps)
        if steps:
            found.append(Chapter(heading[1], steps))
    return found


def walk(steps: Sequence[Step]) -> None:
    """Do all of it, in labs. Raises TourRotten at the first line that is not as it says."""
    with contextlib.ExitStack() as stack:
        walker: _Walker | None = None
        for step in steps:
            if isinstance(step, Build):
                stack.close()
                playground = stack.enter_context(Playground(*step.kinds))
                walker = stack.enter_context(_Walker(playground))
            elif walker is None:
                raise TourRotten(f"line {step.line}: no lab has been built")
            elif isinstance(step, Command):
                walker.run(step)
            else:
                walker.look(step)


def matches(expected: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether that was printed which the page says, varying parts aside."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == LEFT_OUT else f"{_pattern_of(line)}\n" for line in expected
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def _pattern_of(line: str) -> str:
    return ".+?".join(re.escape(part) for part in _VARIES.split(line))


def _read_block(lines: Sequence[str], first: int, steps: list[Step]) -> None:
    for number, line in enumerate(lines, first):
        if build := _BUILD.fullmatch(line):
            steps.append(Build(number, (build[1], build[2])))
        elif command := _COMMAND.fullmatch(line):
            host, console, text = command.groups()
            steps.append(Command(number, host, console and host + console, text))
        elif came_up := _CAME_UP.fullmatch(line):
            before = steps[-1] if steps else None
            if isinstance(before, CameUp) and before.console == came_up[1]:
                before.printed.append(came_up[2])
            else:
                steps.append(CameUp(number, came_up[1], [came_up[2]]))
        elif steps and isinstance(steps[-1], Command):
            steps[-1].printed.append(line)
        else:
            raise ValueError(f"line {number}: {line!r} belongs to no command")


class _Walker:
    def __init__(self, playground: Playground) -> None:
        self._playground = playground
        self._consoles: dict[str, _Terminal] = {}

    def __enter__(self) -> _Walker:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in self._consoles.values():
            terminal.close()

    def run(self, step: Command) -> None:
        """Run it to its end, or until it has printed what the page says, or listens."""
        argv, env = self._playground.visit.command(step.host, ["bash", "-c", step.text])
        if step.console is None:
            with contextlib.closing(_Terminal(argv, env, self._playground.folder)) as terminal:
                _compare(step, step.printed, terminal.to_the_end(step.line))
            return
        if step.console in self._consoles:
            self._consoles.pop(step.console).close()
        with self._playground.lab.inside(_place(step.host)):
            before = _ports_in_use()
        terminal = self._consoles[step.console] = _Terminal(argv, env, self._playground.folder)

        def is_ready() -> bool:
            if step.printed:
                return matches(step.printed, terminal.lines())
            with self._playground.lab.inside(_place(step.host)):
                return bool(_ports_in_use() - before)

        if not _holds(is_ready):
            _compare(step, step.printed or ["(a port in use)"], terminal.lines())
        terminal.seen = len(terminal.lines())

    def look(self, step: CameUp) -> None:
        """Wait until that has come up in a console."""
        terminal = self._consoles[step.console]
        if not _holds(lambda: matches(step.printed, terminal.lines()[terminal.seen :])):
            _compare(step, step.printed, terminal.lines()[terminal.seen :])
        terminal.seen = len(terminal.lines())


class _Terminal:
    """A program with a terminal of its own for what it prints, and nothing typed."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], folder: Path) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
        self.seen = 0
        self._printed = b""
        self._process = subprocess.Popen(
            [*argv],
            env={**env, "TERM": "dumb"},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._ours = ours
        self._reader = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._reader.start()

    def lines(self) -> list[str]:
        """What has been printed so far, whole lines only."""
        text = self._printed.decode(errors="replace").replace("\r", "")
        return [_as_seen(line) for line in text.split("\n")[:-1]]

    def to_the_end(self, number: int) -> list[str]:
        """All of it, when the program has ended. Raises TourRotten if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise TourRotten(f"line {number}: does not end; so far {self.lines()}") from None
        self._reader.join(PATIENCE_SECONDS)
        return self.lines()

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        self._reader.join(PATIENCE_SECONDS)
        with contextlib.suppress(OSError):
            os.close(self._ours)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while data := os.read(self._ours, 65536):
                self._printed += data


def _as_seen(line: str) -> str:
    """A line after its backspaces: hping writes over what it has written."""
    seen: list[str] = []
    at = 0
    for character in line:
        if character == "\b":
            at = max(0, at - 1)
            continue
        seen[at : at + 1] = [character]
        at += 1
    return "".join(seen).rstrip()


def _place(host: str) -> str:
    return "local-nat" if host == "local-fw" else host


def _ports_in_use() -> set[str]:
    """The local addresses that programs have bound here, as the kernel lists them."""
    found = set()
    for table in ("udp", "tcp"):
        rows = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
        found |= {f"{table} {row.split()[1]}" for row in rows}
    return found


def _holds(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _compare(step: Command | CameUp, expected: Sequence[str], printed: Sequence[str]) -> None:
    if not matches(expected, printed):
        raise TourRotten(
            f"line {step.line} of the tour says\n  "
            + "\n  ".join(expected or ["(nothing)"])
            + "\nbut it printed\n  "
            + "\n  ".join(printed or ["(nothing)"])
        )

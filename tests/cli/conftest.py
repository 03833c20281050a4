"""A real server, people registered on it, and the programs they run."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import fcntl
import io
import itertools
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from knothole.cli.app import run
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile
from knothole.wire.server_url import parse_server_url

from ..ports import free_port
from .forked import ForkedProgram

DOC = Path(__file__).parents[2] / "docs" / "cli.md"
PATIENCE = 60.0
"""Seconds after which something that should have happened has not, on a busy machine too."""
KNOTHOLE = (sys.executable, "-m", "knothole")
SHOWN_WITHIN = {
    "check": ("SERVER", "DISCOVERY"),
    "contacts": ("SERVER", "PRESENCE"),
    "status": ("SERVER", "GATHER", "DISCOVERY"),
}
"""How long commands wait for what they show."""


# ------------------------------------------------------------------------------ docs/cli.md


def sections() -> dict[str, str]:
    """The text of docs/cli.md for each command."""
    found = re.split(r"^## knothole (.+)$", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def documented_options(command: str) -> set[str]:
    """The options that docs/cli.md lists for a command."""
    rows = re.findall(r"^\| (`-.+?) \|", sections()[command], flags=re.MULTILINE)
    return {option for row in rows for option in re.findall(r"`(-[\w-]+)`", row)}


def documented_events(command: str) -> dict[str, list[set[str]]]:
    """The fields that docs/cli.md lists for each event of a command; an event may have variants."""
    events: dict[str, list[set[str]]] = {"error": [{"text"}]}
    section = sections()[command]
    common = set(re.findall(r"^Each object has a `(\w+)`", section, re.MULTILINE))
    for table in re.findall(r"^\| event \|.*\n(?:\|.*\n)+", section, re.MULTILINE):
        for row in table.splitlines()[2:]:
            name, _, fields = (cell.strip() for cell in row.strip("|").split("|"))
            own = set(re.findall(r"`(\w+)`", fields))
            events.setdefault(name.strip("`"), []).append(common | own)
    return events


# --------------------------------------------------------------------------------- programs


class Program:
    """A running program; its output is read as it comes.

    ``stdin`` and ``stdout`` may be descriptors of the caller's; otherwise they are pipes.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        env: dict[str, str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        terminal: bool = False,
    ) -> None:
        self.command = arguments[0]
        self._output = {"stdout": b"", "stderr": b""}
        self._arrived = threading.Condition()
        self._readers: list[threading.Thread] = []
        self._ours: list[int] = []
        theirs = []
        if stdin is None:
            stdin, self._input = os.pipe()
            theirs.append(stdin)
            self._ours.append(self._input)
        if stdout is None:
            ours, stdout = os.pipe()
            theirs.append(stdout)
            self._read_from("stdout", ours)
        ours, stderr = os.pipe()
        theirs.append(stderr)
        self._read_from("stderr", ours)
        self._process = ForkedProgram(
            arguments, env, stdin=stdin, stdout=stdout, stderr=stderr, terminal=terminal
        )
        for descriptor in theirs:
            os.close(descriptor)

    @property
    def stdout(self) -> str:
        return _decoded(self._output["stdout"])

    @property
    def stderr(self) -> str:
        return _decoded(self._output["stderr"])

    def expect(self, text: str, *, times: int = 1) -> None:
        """Wait until it has printed ``text``, on either stream, so many times."""
        self._wait_until(lambda: self.stdout.count(text) + self.stderr.count(text) >= times, text)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the first event of this name."""
        beginning = f'{{"event": "{name}"'
        self._wait_until(
            lambda: any(line.startswith(beginning) for line in self._whole_lines()), beginning
        )
        return next(event for event in self.events() if event["event"] == name)

    def events(self) -> list[dict[str, Any]]:
        """Everything that it has printed as JSON so far, each as docs/cli.md has it."""
        return [checked(self.command, json.loads(line)) for line in self._whole_lines()]

    def say(self, text: str) -> None:
        """Write to its stdin."""
        os.write(self._input, text.encode())

    def end_input(self) -> None:
        os.close(self._input)
        self._ours.remove(self._input)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, when all it has printed is read."""
        code = self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def close(self) -> None:
        self._process.kill()
        self.wait()
        for descriptor in self._ours:
            os.close(descriptor)

    def _whole_lines(self) -> list[str]:
        return [line for line in self.stdout.splitlines(keepends=True) if line.endswith("\n")]

    def _wait_until(self, holds: Callable[[], bool], wanted: str) -> None:
        deadline = time.monotonic() + PATIENCE
        with self._arrived:
            while not holds():
                left = deadline - time.monotonic()
                if left <= 0 or not any(reader.is_alive() for reader in self._readers):
                    raise AssertionError(f"no {wanted!r} in {self.stdout!r} and {self.stderr!r}")
                self._arrived.wait(left)

    def _read_from(self, name: str, descriptor: int) -> None:
        self._ours.append(descriptor)
        reader = threading.Thread(target=self._read, args=(name, descriptor), daemon=True)
        self._readers.append(reader)
        reader.start()

    def _read(self, name: str, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has that terminal open any more
            while data := os.read(descriptor, 65536):
                with self._arrived:
                    self._output[name] += data
                    self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()


def _decoded(output: bytes) -> str:
    """``output`` as far as it has come: the last character may be half there."""
    return codecs.utf_8_decode(output, "strict", False)[0]


def checked(command: str, event: dict[str, Any]) -> dict[str, Any]:
    """``event``, if docs/cli.md knows it so."""
    fields = event.keys() - {"event"}
    variants = documented_events(command).get(event["event"], [])
    assert fields in variants, f"docs/cli.md says {variants} of {command}, this is {event}"
    return event


class TerminalProgram(Program):
    """A program with a terminal of its own in front of it; what that shows is its stdout."""

    LAST = b"<all it has printed>"

    def __init__(self, arguments: Sequence[str], env: dict[str, str], columns: int) -> None:
        self._terminal, self._inside = pty.openpty()
        fcntl.ioctl(self._inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._at_first = termios.tcgetattr(self._inside)
        super().__init__(arguments, env, stdin=self._inside, stdout=self._inside, terminal=True)
        self._input = self._terminal
        self._read_from("stdout", self._terminal)

    def left_as_found(self) -> bool:
        """Whether the terminal echoes and edits lines again as before."""
        return termios.tcgetattr(self._inside) == self._at_first

    def wait(self) -> int:
        code = self._process.wait(PATIENCE)
        self._readers[0].join(PATIENCE)
        os.write(self._inside, self.LAST)  # behind what it has printed: then that is read, too
        self._wait_until(lambda: self.LAST in self._output["stdout"], "the end of it")
        with self._arrived:
            self._output["stdout"] = self._output["stdout"].replace(self.LAST, b"")
        return code

    def close(self) -> None:
        self._process.kill()
        self.wait()
        os.close(self._inside)  # now nobody has it open, and the reader ends
        self._readers[1].join(PATIENCE)
        for descriptor in self._ours:
            os.close(descriptor)


class Done(NamedTuple):
    """What a command came to."""

    returncode: int
    stdout: bytes
    stderr: bytes


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """What hangs in this process fails."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"not done after {PATIENCE:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    others = signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)


class Person:
    """Somebody registered, and the programs they run."""

    def __init__(self, name: str, home: Path, opened: contextlib.ExitStack) -> None:
        self.name = name
        self.home = home
        self._opened = opened

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "KNOTHOLE_HOME": str(self.home),
            "PYTHONWARNINGS": "error",
            "PYTHONUTF8": "1",
        }

    def start(self, *arguments: str, **streams: int) -> Program:
        """A program of theirs, ended with the test."""
        program = Program(arguments, self.env, **streams)
        self._opened.callback(program.close)
        return program

    def at_terminal(self, *arguments: str, columns: int = 80) -> TerminalProgram:
        """A program of theirs in a terminal, ended with the test."""
        program = TerminalProgram(arguments, {**self.env, "TERM": "xterm"}, columns)
        self._opened.callback(program.close)
        return program

    def listening(self, *arguments: str, **streams: int) -> Program:
        """``knothole listen``, ready."""
        program = self.start("listen", *arguments, **streams)
        program.expect("ready")
        return program

    def run(self, *arguments: str, stdin: bytes = b"") -> Done:
        """A command of theirs, to its end, in this very process: that takes a fifth of the time."""
        with contextlib.ExitStack() as around:
            files = [around.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin)
            files[0].seek(0)
            texts = [io.TextIOWrapper(file, "utf-8", write_through=True) for file in files]
            patch = around.enter_context(pytest.MonkeyPatch.context())
            for name, text in zip(("stdin", "stdout", "stderr"), texts, strict=True):
                patch.setattr(sys, name, text)
            patch.setenv("KNOTHOLE_HOME", str(self.home))
            around.enter_context(patience())
            code = run(arguments)
            contents = []
            for text in texts:
                text.detach()
            for file in files[1:]:
                file.seek(0)
                contents.append(file.read())
        return Done(code, *contents)

    def events(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the events of a program run with ``--json`` to its end."""
        done = self.run(*arguments, "--json")
        printed = [checked(arguments[0], json.loads(line)) for line in done.stdout.splitlines()]
        return done.returncode, printed

    def pings_until_direct(self, name: str) -> None:
        """Ping ``name`` until an answer has come by a direct path."""
        pinging = self.start("ping", name, "-i", "0.1", "--json")
        for count in range(1, 600):
            pinging.expect('{"event": "pong"', times=count)
            pongs = [event for event in pinging.events() if event["event"] == "pong"]
            if any(event["path"] == "direct" for event in pongs):
                break
        pinging.signal(signal.SIGINT)
        assert pinging.wait() == 0

    def knows(self, other: Person, *, by_the_key_of: Person | None = None) -> None:
        """Remember the other's key, or a wrong one."""
        key = Profile.load((by_the_key_of or other).home).identity.public_key
        Profile.load(self.home).remember(other.name, key)


# --------------------------------------------------------------------------------- fixtures


@contextlib.contextmanager
def serving(
    folder: Path, program: Sequence[str] = KNOTHOLE, *, port: int | None = None
) -> Iterator[str]:
    """A server; its address."""
    for _ in range(5):  # a port that was free may be another program's by now
        server, url = _started(folder, program, port or free_port())
        if url:
            break
    assert url, "the server does not start: see above"
    with server:
        try:
            yield url
        finally:
            server.terminate()


def _started(
    folder: Path, program: Sequence[str], port: int
) -> tuple[subprocess.Popen[bytes], str]:
    """A server and its address, "" when it could not start."""
    server = subprocess.Popen(
        [*program, "serve", "--host", "127.0.0.1", "--port", str(port), "--json"],
        env={**os.environ, "KNOTHOLE_HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    for line in server.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            return server, event["url"]
    with server:
        return server, ""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown as far as it is known in some seconds: on a busy machine they are more."""
    for module, names in SHOWN_WITHIN.items():
        for name in names:
            monkeypatch.setattr(f"knothole.cli.{module}.{name}_SECONDS", PATIENCE / 2)


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server: one for each file, because 100 names an hour are all it gives."""
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    """So that every test has people of its own."""
    return itertools.count(1)


@pytest.fixture(scope="module")
def echo(
    server_url: str, tmp_path_factory: pytest.TempPathFactory, numbers: Iterator[int]
) -> Iterator[str]:
    """The name of somebody who echoes all the time."""
    with contextlib.ExitStack() as opened:
        person = made("echo", server_url, tmp_path_factory.mktemp("echo"), numbers, opened)
        person.listening("--echo")
        yield person.name


@pytest.fixture
def register(tmp_path: Path, numbers: Iterator[int]) -> Iterator[Callable[[str, str], Person]]:
    """Makes people on a server of one's choice; their programs end with the test."""
    with contextlib.ExitStack() as opened:
        yield lambda name, url: made(name, url, tmp_path, numbers, opened)


def made(
    name: str, url: str, folder: Path, numbers: Iterator[int], opened: contextlib.ExitStack
) -> Person:
    """Somebody new, registered, with a number after the name."""
    unique = f"{name}{next(numbers)}"
    profile = Profile.create(folder / unique, unique, parse_server_url(url))
    asyncio.run(_register(profile))
    profile.save()
    return Person(unique, folder / unique, opened)


@pytest.fixture
def person(register: Callable[[str, str], Person], server_url: str) -> Callable[[str], Person]:
    """Makes people on the server."""
    return lambda name: register(name, server_url)


@pytest.fixture
def nothing() -> Iterator[int]:
    """A stdin that is at its end."""
    with open(os.devnull) as file:
        yield file.fileno()


@pytest.fixture
def alice(person: Callable[[str], Person]) -> Person:
    return person("alice")


@pytest.fixture
def bob(person: Callable[[str], Person]) -> Person:
    return person("bob")


@pytest.fixture
def carol(person: Callable[[str], Person]) -> Person:
    return person("carol")


async def _register(profile: Profile) -> None:
    async with Peer(profile, callable=False, timeout=PATIENCE):
        pass

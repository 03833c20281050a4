"""Programs that a lab runs and listens to: which commands, and the events they print."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from knothole.lab.netns.topology import Lab

Event = dict[str, Any]


class ProgramFailed(RuntimeError):
    """A program of the lab ended, failed or was silent too long; the text has its last words."""


class Commands(Protocol):
    """The command lines of the programs under test."""

    def serve(self, addresses: Sequence[str], data: Path) -> list[str]:
        """A server; prints a line ``ready URL``, or the event ``ready`` with ``url``."""

    def join(self, name: str, url: str) -> list[str] | None:
        """Makes the profile that KNOTHOLE_HOME names; None when there is nothing to do."""

    def work(self, name: str, profile: Path, url: str) -> list[str]:
        """An end that speaks what :mod:`knothole.lab.worker` describes."""


class KnotholeCommands:
    """The real programs of this package."""

    def serve(self, addresses: Sequence[str], data: Path) -> list[str]:
        hosts = [word for address in addresses for word in ("--host", address)]
        return knothole("serve", *hosts, "--also-listen", "443", "--data", str(data), "--json")

    def join(self, name: str, url: str) -> list[str]:
        return knothole("join", name, "--server", url, "--json")

    def work(self, name: str, profile: Path, url: str) -> list[str]:
        return [sys.executable, "-m", "knothole.lab.worker", str(profile)]


def knothole(*arguments: str) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-m", "knothole", *arguments]


class Program:
    """A running program whose lines of JSON are read as they come.

    Lines that are no JSON object are kept as the event ``text``. Errors go to a file, the end of
    which is shown when the program fails.
    """

    def __init__(self, lab: Lab, host: str, argv: Sequence[str], env: dict[str, str]) -> None:
        self.host = host
        self.argv = [*argv]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._waiting: list[Event] = []
        self._process = lab.popen(
            host,
            argv,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"{host} output", daemon=True)
        self._reader.start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._process

    def tell(self, **command: object) -> None:
        """Send a command as a line of JSON. Raises ProgramFailed when the program has ended."""
        self.write(json.dumps(command))

    def write(self, line: str) -> None:
        """Send a line. Raises ProgramFailed when the program has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._failure("has ended") from error

    def expect(self, *names: str, timeout: float) -> Event:
        """The next event of one of these names; others before it stay to be asked for.

        Raises ProgramFailed after ``timeout`` seconds, at the program's end, and for its event
        ``error`` unless that is among the names.
        """
        found = self.find(lambda event: event["event"] in names, timeout=timeout)
        if found is None:
            raise self._failure(f"did not say {' or '.join(names)} within {timeout:g} s")
        return found

    def find(self, wanted: Callable[[Event], bool], *, timeout: float) -> Event | None:
        """The first event not taken yet that is ``wanted``; None when none comes in time.

        Raises ProgramFailed at the program's end, and for an event ``error`` not wanted.
        """
        deadline = time.monotonic() + timeout
        position = 0
        while True:
            while position < len(self._waiting):
                event = self._waiting[position]
                if wanted(event):
                    del self._waiting[position]
                    return event
                if event["event"] == "error":
                    raise self._failure(str(event.get("text", "failed")))
                position += 1
            try:
                new = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if new is None:
                self._events.put(None)
                raise self._failure("has ended")
            self._waiting.append(new)

    def last_errors(self, size: int = 1500) -> str:
        """The end of what it wrote to standard error."""
        end = self._errors.seek(0, 2)
        self._errors.seek(max(0, end - size))
        return self._errors.read().decode(errors="replace").strip()

    def wait(self, timeout: float) -> int:
        """Its exit code. Raises ProgramFailed when it goes on."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end within {timeout:g} s") from None

    def close(self, *, ends_with_input: bool = True) -> None:
        """End it: by the end of its input, else by SIGTERM, else by force."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        steps: list[Callable[[], None]] = [self._process.terminate, self._process.kill]
        if ends_with_input:
            steps.insert(0, lambda: None)
        for step in steps:
            step()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2.0)
                break
        self._reader.join(1.0)
        self._process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = _event_of(line.decode(errors="replace").strip())
            event.setdefault("seen", time.monotonic())
            self._events.put(event)
        self._events.put(None)

    def _failure(self, what: str) -> ProgramFailed:
        words = " ".join(self.argv[-6:])
        return ProgramFailed(f"{self.host}: `{words}` {what}. {self.last_errors()}".strip())


def _event_of(line: str) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and isinstance(event.get("event"), str):
        return event
    word, _, rest = line.partition(" ")
    return {"event": word, "text": rest} if word == "ready" else {"event": "text", "text": line}

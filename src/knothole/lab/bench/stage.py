"""Where the two processes of a benchmark stand: on loopback, or behind kernel NATs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from knothole.lab.netns.topology import Lab

SENDER: Final = "alice"
RECEIVER: Final = "bob"


class Stage:
    """Starts the processes of a benchmark; leaving it ends them."""

    def __init__(self, host: str = "", nat: str | None = None, lab: Lab | None = None) -> None:
        """In ``lab``, which has both; else each behind a ``nat`` of that kind; else on ``host``."""
        self._host = host
        self._lab = lab
        self._owns_lab = lab is None
        self._processes: list[subprocess.Popen[str]] = []
        if lab is None and nat is not None:
            from knothole.lab.netns.topology import Lab

            self._lab = Lab()
            try:
                for name in (SENDER, RECEIVER):
                    self._lab.add_client(name, nat=nat)
            except BaseException:
                self._lab.close()
                raise

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            with process:  # closes its pipes and waits
                pass
        if self._lab is not None and self._owns_lab:
            self._lab.close()

    def host(self, name: str) -> str:
        """The address that a process there binds."""
        return self._host if self._lab is None else self._lab.hosts[name].address

    def seen_host(self, name: str) -> str:
        """The address that the other process sends to. The NATs keep ports."""
        return self._host if self._lab is None else self._lab.public_address(name)

    def start(self, name: str, module: str, *arguments: str) -> Process:
        """Run a module of this package there."""
        argv = [sys.executable, "-m", f"knothole.lab.bench.{module}", *arguments]
        options: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "text": True,
            "env": {**os.environ},
        }
        if self._lab is None:
            process: subprocess.Popen[str] = subprocess.Popen(argv, **options)
        else:
            process = self._lab.popen(name, argv, **options)
        self._processes.append(process)
        return Process(process)


class Process:
    """A process that is talked to in JSON lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def take(self) -> dict[str, Any]:
        """Its next word. Raises RuntimeError when it has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended early: {self._process.args!r}")
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def give(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

"""Programs that need not load all their modules first: forked from one that has."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import termios
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [f"knothole.cli.{name}" for name in ("answer", "call", "chat", "listener", "ping", "pipe")]
)


class ForkedProgram:
    """``knothole`` with these arguments, in a process and a session of its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        terminal: bool = False,
    ) -> None:
        """The descriptors become its own; with ``terminal`` its stdin is its terminal."""
        streams = [_Descriptor(each) for each in (stdin, stdout, stderr)]
        self._process = FORKS.Process(  # type: ignore[attr-defined]
            target=_run, args=(list(arguments), dict(env), streams, terminal), daemon=True
        )
        self._process.start()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float) -> int:
        """Its exit code. Raises AssertionError when it goes on."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it goes on after {timeout:g} s"
        return self._process.exitcode


class _Descriptor:
    """A descriptor that travels to the new process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._descriptor),)


def _received(sent: Any) -> int:
    return sent.detach()


def _run(arguments: list[str], env: dict[str, str], streams: list[int], terminal: bool) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.setsid()
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["knothole", *arguments]
    from knothole.cli import main

    main()

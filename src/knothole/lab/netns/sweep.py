"""Nothing of a lab outlives it: its processes carry its name and are ended by it.

Namespaces go by themselves (see :mod:`knothole.lab.netns.namespace`) once no process is left in
them. Every process of a lab has the lab's name in its environment. When the lab's own process
ends, in whatever way, a guardian process notices the end of a pipe and ends the rest; should the
guardian have been killed as well, the next lab sweeps when it starts.

Run as a process this file is the guardian: ``python sweep.py NAME``. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

MARK: Final = "KNOTHOLE_LAB"
_ROUNDS: Final = 40
_PAUSE_SECONDS: Final = 0.05
_DEATH_SECONDS: Final = 10.0  # ours: for one that was killed, on a machine that does much else


def lab_name(serial: int) -> str:
    """A name no other lab has: process id, its start time (ids are used again), a number."""
    own = os.getpid()
    return f"{own}-{_start_time(own)}-{serial}"


def owner_lives(name: str) -> bool:
    """Whether the process that made the lab of that name still runs."""
    with contextlib.suppress(ValueError, OSError):
        process, started, _ = name.split("-")
        return _start_time(int(process)) == started
    return False


def sweep() -> list[int]:
    """End what labs of dead owners left behind; returns the ids of the processes ended."""
    ended: list[int] = []
    dead: dict[str, bool] = {}
    for process, name in _marked_processes():
        if dead.setdefault(name, not owner_lives(name)) and _end(process, name):
            ended.append(process)
    return ended


def end_lab(name: str) -> None:
    """End every process of the lab ``name``, those they started included."""
    for _ in range(_ROUNDS):
        left = [process for process, mark in _marked_processes() if mark == name]
        if not left:
            return
        for process in left:
            _end(process, name)
        time.sleep(_PAUSE_SECONDS)


class Guardian:
    """The process that ends the lab ``name`` if its owner cannot."""

    def __init__(self, name: str) -> None:
        # A session of its own: Ctrl-C in the terminal is for the lab, not for its guardian.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={},
        )

    def dismiss(self) -> None:
        """End the lab's processes now, by way of the guardian, and the guardian with them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _marked_processes() -> list[tuple[int, str]]:
    """(process id, lab name) of every process that carries a lab's name, but this one."""
    prefix = f"{MARK}=".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            found += [
                (int(entry.name), setting.removeprefix(prefix).decode(errors="replace"))
                for setting in environment
                if setting.startswith(prefix)
            ]
    return found


def _end(process: int, name: str) -> bool:
    """Kill ``process`` if it still belongs to ``name``: its id may be another's by now.

    When it has ended it holds nothing any more; until then it may hold a namespace though its
    environment is gone.
    """
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(process)
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes()
            if f"{MARK}={name}".encode() in environment.split(b"\0"):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], _DEATH_SECONDS)
                return True
        finally:
            os.close(handle)
    return False


def _start_time(process: int) -> str:
    """Field 22 of /proc/PID/stat: clock ticks since boot at which the process started."""
    status = Path(f"/proc/{process}/stat").read_text()
    return status[status.rindex(")") + 2 :].split()[19]


def main() -> None:
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    end_lab(sys.argv[1])


if __name__ == "__main__":
    main()

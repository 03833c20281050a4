"""What a server under attack must not lose: memory, descriptors, and those who behave."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from knothole.lab.process_figures import children, resident_kibibytes

START_SECONDS: Final = 40.0
STOP_SECONDS: Final = 40.0
_LISTENING: Final = "0A"  # Linux's <net/tcp_states.h>: TCP_LISTEN


@dataclass(frozen=True, slots=True)
class Vitals:
    """Of all processes of a server together. ``ports`` are those that its sockets are bound to."""

    resident_kib: int
    descriptors: int
    ports: int = 0

    def __str__(self) -> str:
        return (
            f"{self.resident_kib / 1024:.1f} MiB resident, {self.descriptors} descriptors, "
            f"{self.ports} ports"
        )


def everything_on(folder: Path) -> str:
    """A configuration with all that may be switched on, so that it is attacked too."""
    key = folder / "north.key"
    key.touch(0o600)
    key.write_text(base64.b64encode(bytes(range(32))).decode())
    return (
        "classic-stun = true\n[relay]\nmobility = true\n[[oauth]]\nkid = 'north'\n"
        f"key-file = '{key}'\nserver-name = 'turn.example.org'"
    )


def family_of(process: int) -> list[int]:
    """A process and its children, by their ids."""
    with contextlib.suppress(OSError):  # it has ended
        return [process, *children(process)]
    return [process]


def vitals(processes: list[int]) -> Vitals:
    """Of processes that live. Raises OSError when one does not."""
    resident = sum(map(resident_kibibytes, processes))
    descriptors = sum(len(os.listdir(f"/proc/{each}/fd")) for each in processes)
    return Vitals(resident, descriptors, sum(map(_bound_ports, processes)))


def _bound_ports(process: int) -> int:
    """How many UDP sockets are bound, and TCP sockets listen, in a process."""
    sockets = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(descriptor))
    count = 0
    for table in ("udp", "udp6", "tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            is_bound = table.startswith("udp") or fields[3] == _LISTENING
            count += is_bound and f"socket:[{fields[9]}]" in sockets
    return count


class Patient:
    """``knothole serve`` on loopback, with a folder of its own. Use as a context manager.

    Its metrics are at TCP ``metrics_port``, the next one.
    """

    def __init__(self, folder: Path, port: int, *arguments: str, config: str = "") -> None:
        """``config`` is what stands in its file. Raises RuntimeError when it does not start."""
        self.folder = folder
        self.port = port
        self.metrics_port = port + 1
        self.configure(config)
        host, data, file = "127.0.0.1", str(folder / "data"), str(folder / "server.toml")
        where = ["--host", host, "--port", str(port), "--data", data, "--config", file, "--json"]
        self._errors = (folder / "errors").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "knothole", "serve", *where, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "KNOTHOLE_HOME": str(folder / "home"), "PYTHONWARNINGS": "error"},
        )
        self._await_ready()
        self.processes = family_of(self.process.pid)

    def __enter__(self) -> Patient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def configure(self, config: str) -> None:
        """Write its file anew; it reads it when it is told to."""
        metrics = f'[metrics]\nlisten = "127.0.0.1:{self.metrics_port}"\n'
        (self.folder / "server.toml").write_text(f"{config}\n{metrics}")

    @property
    def secret(self) -> str:
        """What its TURN credentials are made of."""
        return (self.folder / "data" / "turn-secret").read_text().split()[0]

    @property
    def lives(self) -> bool:
        return self.process.poll() is None and family_of(self.process.pid) == self.processes

    def complaints(self) -> str:
        """What it wrote to standard error: nothing, when all is well."""
        self._errors.flush()
        return (self.folder / "errors").read_text()

    def stop(self) -> int:
        """Its exit code."""
        self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()
        return code

    def _await_ready(self) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        while line := self.process.stdout.readline():
            event: dict[str, Any] = json.loads(line)
            if event.get("event") == "ready":
                return
            if time.monotonic() > deadline:
                break
        self.stop()
        raise RuntimeError(f"the server does not start: {(self.folder / 'errors').read_text()}")

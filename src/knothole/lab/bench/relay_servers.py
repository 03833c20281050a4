"""The relays under test, each a process pinned to one core: coturn, and knothole in its modes."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from knothole.lab.bench.relay_clients import REALM, SECRET
from knothole.lab.netns.namespace import Namespace
from knothole.server.certificate import own_certificate
from knothole.server.link import (
    MAX_PACKET,
    Accelerated,
    Message,
    RelayFailed,
    RelayReady,
    RelaySettings,
    RelayStart,
    link_pair,
)
from knothole.wire.address import Address

PORTS: Final = (20_000, 65_535)
MOST_ALLOCATIONS: Final = 45_000
DESCRIPTORS: Final = 65_000
START_SECONDS: Final = 60.0


class RelayUnavailable(RuntimeError):
    """This machine has not what it needs; the text says what."""


class Relay(Protocol):
    """A relay that runs."""

    @property
    def processes(self) -> list[int]:
        """Their ids: what they use is what it costs."""

    def stop(self) -> None: ...


class Coturn:
    """Debian's coturn, with one thread for relaying as it has one core."""

    def __init__(self, namespace: Namespace, core: int, listener: Address, folder: Path) -> None:
        """Raises RelayUnavailable when it does not start."""
        program = shutil.which("turnserver", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise RelayUnavailable("coturn is missing: apt-get install coturn")
        argv = [
            *(program, "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log"),
            *("--use-auth-secret", f"--static-auth-secret={SECRET}", f"--realm={REALM}"),
            *(f"--listening-ip={listener.host}", f"--listening-port={listener.port}"),
            *(f"--relay-ip={listener.host}", "--relay-threads=1", "--log-file=/dev/null"),
            *(f"--min-port={PORTS[0]}", f"--max-port={PORTS[1]}", "--no-tcp-relay"),
            *(f"--pidfile={folder}/turnserver.pid", f"--userdb={folder}/turnserver.db"),
        ]
        self._process = _start(namespace, core, argv)
        _wait_until_bound(self._process.pid, listener)

    @property
    def processes(self) -> list[int]:
        return [self._process.pid]

    def stop(self) -> None:
        _end(self._process)


class Knothole:
    """The relay process of ``knothole serve``, told what its server would tell it."""

    def __init__(
        self, namespace: Namespace, core: int, listener: Address, folder: Path, **options: Any
    ) -> None:
        """``options`` are fields of RelayStart. Raises RelayUnavailable when it does not start."""
        certificate = own_certificate(folder)
        start = RelayStart(
            hosts=[listener.host],
            port=listener.port,
            discovery_port=0,
            partners={},
            relay_hosts={listener.host: listener.host},
            machine=[listener.host],
            realm=REALM,
            relay_ports=PORTS,
            settings=RelaySettings(
                secrets=[SECRET],
                revoked=[],
                allow_peers=["10.66.0.0/16"],
                deny_peers=[],
                allocations=MOST_ALLOCATIONS,
                allocations_per_user=MOST_ALLOCATIONS,
                chain=str(certificate.chain),
                key=str(certificate.key),
                allocations_per_network=MOST_ALLOCATIONS,
                max_megabits=0,
                max_datagrams=0,
            ),
            **options,
        )
        self._link, theirs = link_pair()
        argv = [sys.executable, "-P", "-m", "knothole.server.relay_process", str(theirs.fileno())]
        with theirs:
            self._process = _start(namespace, core, argv, pass_fds=[theirs.fileno()])
        self._link.settimeout(START_SECONDS)
        try:
            self._link.send(msgspec.msgpack.encode(start))
            self._wait_ready(start.accelerator)
        except BaseException:
            self.stop()
            raise

    def _wait_ready(self, accelerated: bool) -> None:
        waiting = {"ready", "accelerated"} if accelerated else {"ready"}
        while waiting:
            match msgspec.msgpack.decode(self._link.recv(MAX_PACKET), type=Message):
                case RelayReady():
                    waiting.discard("ready")
                case Accelerated(on, reason):
                    waiting.discard("accelerated")
                    if not on:
                        raise RelayUnavailable(f"the accelerator is off: {reason}")
                case RelayFailed(reason):
                    raise RelayUnavailable(f"knothole's relay does not start: {reason}")

    @property
    def processes(self) -> list[int]:
        return [self._process.pid]

    def stop(self) -> None:
        self._link.close()
        _end(self._process)


def cpu_seconds(process: int) -> float:
    """What the process has used, all its threads together, to the nanosecond.

    Work that the kernel does for packets in a process's own time is in it.
    """
    total = 0
    for thread in Path(f"/proc/{process}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def softirq_processes() -> list[int]:
    """The kernel's own threads for packets that nobody's time was left for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                name = (entry / "comm").read_text()
            except OSError:  # it has just ended
                continue
            if name.startswith("ksoftirqd/"):
                found.append(int(entry.name))
    return found


def resident_kibibytes(process: int) -> int:
    """Memory of the process that is in RAM (VmRSS)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def kernel_kibibytes() -> int:
    """What the kernel of this machine has for objects of its own, sockets among them (Slab)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1])
    return 0


def descriptors() -> int:
    """How many files a relay may open here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)


def _start(
    namespace: Namespace, core: int, argv: list[str], **options: Any
) -> subprocess.Popen[bytes]:
    """In the namespace, on that core, with enough descriptors."""
    before = os.sched_getaffinity(0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.sched_setaffinity(0, {core})
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors(), limits[1]))
    try:
        with namespace.entered():
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **options,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.sched_setaffinity(0, before)


def _wait_until_bound(process: int, listener: Address) -> None:
    """Until the kernel lists the UDP socket. Raises RelayUnavailable when that takes too long."""
    number = int.from_bytes(listener.ip.packed, sys.byteorder)
    wanted = f"{number:08X}:{listener.port:04X}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if wanted in Path(f"/proc/{process}/net/udp").read_text():
                return
        except OSError:
            break
        time.sleep(0.05)
    raise RelayUnavailable(f"nothing listens on {listener}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""The relays under test, with the cores they may use: coturn, and knothole in its modes."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from knothole.engine.turn.tally import Drop
from knothole.io.udp_bind import bind_shared
from knothole.lab.bench.relay_clients import REALM, SECRET
from knothole.lab.bench.relay_figures import Handled
from knothole.lab.netns.namespace import Namespace
from knothole.lab.process_figures import children
from knothole.server.certificate import own_certificate
from knothole.server.link import (
    MAX_PACKET,
    Accelerated,
    Answered,
    Ask,
    Look,
    Message,
    RelayFailed,
    RelayReady,
    RelaySettings,
    RelayStart,
    TakeListening,
    TakeNeighbour,
    link_pair,
)
from knothole.server.neighbours import neighbour_pair
from knothole.server.reports import Report
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

    def handled(self) -> Handled:
        """By each of several processes, as far as it tells, about a second ago."""

    def stop(self) -> None: ...


class Coturn:
    """Debian's coturn, with one thread for relaying or several."""

    def __init__(
        self,
        namespace: Namespace,
        cores: Collection[int],
        listener: Address,
        folder: Path,
        *,
        threads: int = 1,
    ) -> None:
        """Raises RelayUnavailable when it does not start."""
        program = shutil.which("turnserver", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise RelayUnavailable("coturn is missing: apt-get install coturn")
        argv = [
            *(program, "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log"),
            *("--use-auth-secret", f"--static-auth-secret={SECRET}", f"--realm={REALM}"),
            *(f"--listening-ip={listener.host}", f"--listening-port={listener.port}"),
            *(f"--relay-ip={listener.host}", f"--relay-threads={threads}", "--log-file=/dev/null"),
            *(f"--min-port={PORTS[0]}", f"--max-port={PORTS[1]}", "--no-tcp-relay"),
            *(f"--pidfile={folder}/turnserver.pid", f"--userdb={folder}/turnserver.db"),
        ]
        self._process = _start(namespace, cores, argv)
        _wait_until_bound(self._process.pid, listener)

    @property
    def processes(self) -> list[int]:
        return [self._process.pid]

    def handled(self) -> Handled:
        return Handled((), 0)

    def stop(self) -> None:
        _end(self._process)


class Knothole:
    """The relay processes of ``knothole serve``, told what its server would tell them."""

    def __init__(
        self,
        namespace: Namespace,
        cores: Collection[int],
        listener: Address,
        folder: Path,
        *,
        processes: int = 1,
        accelerator: bool = False,
    ) -> None:
        """Raises RelayUnavailable when it does not start."""
        start = _relay_start(listener, folder, processes, accelerator)
        self._workers: list[tuple[subprocess.Popen[bytes], socket.socket]] = []
        try:
            for _ in range(processes):
                self._workers.append(_start_worker(namespace, cores))
            if processes > 1:
                self._join(namespace, listener)
            for number, (_, link) in enumerate(self._workers):
                link.send(msgspec.msgpack.encode(msgspec.structs.replace(start, number=number)))
            for _, link in self._workers:
                _wait_ready(link, accelerator)
        except BaseException:
            self.stop()
            raise

    def _join(self, namespace: Namespace, listener: Address) -> None:
        """As RelayGroup does: all sockets are there before any process serves."""
        links = [link for _, link in self._workers]
        with namespace.entered():
            sockets = bind_shared(listener, len(links))
        for link, listening in zip(links, sockets, strict=True):
            _give(link, TakeListening(*listener), listening)
        for (one, first), (other, second) in itertools.combinations(enumerate(links), 2):
            ends = neighbour_pair()
            _give(first, TakeNeighbour(other), ends[0])
            _give(second, TakeNeighbour(one), ends[1])

    @property
    def processes(self) -> list[int]:
        return [process.pid for process, _ in self._workers]

    def handled(self) -> Handled:
        reports = self.reports() if len(self._workers) > 1 else []
        return Handled(
            tuple(sum(flow.datagrams for flow in report.flows) for report in reports),
            sum(report.dropped.get(Drop.NO_ALLOCATION, 0) for report in reports),
        )

    def reports(self) -> list[Report]:
        """What each process tells of itself; it has counted all that it relayed a second ago."""
        return [_ask(link) for _, link in self._workers]

    def stop(self) -> None:
        for process, link in self._workers:
            link.close()
            _end(process)


class ServedKnothole:
    """``knothole serve`` whole: the process that people start, and its relay processes."""

    def __init__(
        self,
        namespace: Namespace,
        cores: Collection[int],
        listener: Address,
        folder: Path,
        *,
        processes: int = 1,
    ) -> None:
        """Raises RelayUnavailable when it does not start."""
        config, secret = folder / "server.toml", folder / "turn-secret"
        secret.touch(0o600)
        secret.write_text(f"{SECRET}\n")
        most = processes * MOST_ALLOCATIONS  # quotas are divided
        settings = {
            "first-port": PORTS[0],
            "last-port": PORTS[1],
            "allow-peers": ["10.66.0.0/16"],
            "allocations": most,
            "allocations-per-user": most,
            "allocations-per-network": most,
            "accelerator": "off",
            "processes": processes,
        }
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        config.write_text("".join(("[relay]\n", *lines)))
        argv = [
            *(sys.executable, "-P", "-m", "knothole", "serve", "--relay-only"),
            *(f"--host={listener.host}", f"--port={listener.port}"),
            *(f"--data={folder}", f"--config={config}"),
        ]
        self._process = _start(namespace, cores, argv)
        try:
            _wait_until_bound(self._process.pid, listener)
        except BaseException:
            self.stop()
            raise

    @property
    def processes(self) -> list[int]:
        return [self._process.pid, *children(self._process.pid)]

    def handled(self) -> Handled:
        return Handled((), 0)

    def stop(self) -> None:
        _end(self._process)


def _relay_start(listener: Address, folder: Path, processes: int, accelerator: bool) -> RelayStart:
    certificate = own_certificate(folder)
    return RelayStart(
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
            shares=processes,
        ),
        accelerator=accelerator,
        processes=processes,
    )


def _start_worker(
    namespace: Namespace, cores: Collection[int]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = link_pair()
    ours.settimeout(START_SECONDS)
    argv = [sys.executable, "-P", "-m", "knothole.server.relay_process", str(theirs.fileno())]
    with theirs:
        return _start(namespace, cores, argv, pass_fds=[theirs.fileno()]), ours


def _give(link: socket.socket, message: Message, handed: socket.socket) -> None:
    with handed:
        socket.send_fds(link, [msgspec.msgpack.encode(message)], [handed.fileno()])


def _wait_ready(link: socket.socket, accelerated: bool) -> None:
    waiting = {"ready", "accelerated"} if accelerated else {"ready"}
    while waiting:
        match _hear(link):
            case RelayReady():
                waiting.discard("ready")
            case Accelerated(on, reason):
                waiting.discard("accelerated")
                if not on:
                    raise RelayUnavailable(f"the accelerator is off: {reason}")
            case RelayFailed(reason):
                raise RelayUnavailable(f"knothole's relay does not start: {reason}")


def _ask(link: socket.socket) -> Report:
    link.send(msgspec.msgpack.encode(Ask(0, Look())))
    while True:
        match _hear(link):
            case Answered(_, Report() as report):
                return report


def _hear(link: socket.socket) -> Message:
    message: Message = msgspec.msgpack.decode(link.recv(MAX_PACKET), type=Message)
    return message


def descriptors() -> int:
    """How many files a relay may open here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)


def _start(
    namespace: Namespace, cores: Collection[int], argv: list[str], **options: Any
) -> subprocess.Popen[bytes]:
    """In the namespace, on these cores, with enough descriptors."""
    before = os.sched_getaffinity(0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.sched_setaffinity(0, cores)
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

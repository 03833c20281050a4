"""The real server as a program, and clients of every kind for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import knothole
from knothole.peer.profile import Profile
from knothole.wire.address import Address
from knothole.wire.candidate import CandidateKind
from knothole.wire.server_url import parse_server_url
from knothole.wire.stun import Message, MessageClass, Method, XorMappedAddress, decode, encode
from knothole.wire.turn import StreamFramer

from ..ports import LOOPBACK, free_port

PATIENCE = 40.0
"""Seconds after which something that should have happened has not, on a busy machine too."""


class ServeProgram:
    """``knothole serve`` as a process of its own; its lines are read as they come."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        popen: Callable[..., subprocess.Popen[str]] = subprocess.Popen,
    ) -> None:
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        self.process = popen(
            [sys.executable, "-m", "knothole", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=folder,
            env={
                **os.environ,
                "KNOTHOLE_HOME": str(folder / "home"),
                "PYTHONWARNINGS": "error",
                **(env or {}),
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def expect(self, text: str) -> str:
        """The first line with ``text`` in it."""
        deadline = time.monotonic() + PATIENCE
        with self._arrived:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    raise AssertionError(f"no line with {text!r} among {self.lines}")
                self._arrived.wait(min(left, 0.5))

    def ready(self) -> ServeProgram:
        self.url = self.expect("ready ").removeprefix("ready ")
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def interrupt(self) -> int:
        """Press Ctrl-C: every process in the terminal's foreground gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def relay_process(self) -> int:
        """The process id of the relay."""
        for process in self.relay_processes():
            return process
        raise AssertionError("there is no relay process")

    def relay_processes(self) -> list[int]:
        """Their ids; there may be several."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == self.process.pid:
                    found.append(int(entry.name))
        return sorted(found)

    def noise(self) -> list[str]:
        """Lines that no operator should ever see."""
        words = ("Traceback", "Warning", "Error", "xception", "never retrieved", "Fatal", "asyncio")
        return [
            line
            for line in self.lines
            if any(word in line for word in words)
            and not line.startswith("Executing <")  # PYTHONDEVMODE: a slow turn, no trouble
        ]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._arrived:
                self.lines.append(line.rstrip("\n"))
                self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()


ServeFactory = Callable[..., ServeProgram]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[ServeFactory]:
    """A factory of servers; those that still run at the end are stopped, and none was noisy."""
    programs: list[ServeProgram] = []

    def start(*arguments: str, host: str = LOOPBACK, port: int = 0, **options: Any) -> ServeProgram:
        wanted = ["--host", host, "--port", str(port or free_port(host))] if host else []
        if "--data" not in arguments and "--config" not in arguments:
            wanted += ["--data", str(folder / "data")]
        programs.append(ServeProgram(folder, *wanted, *arguments, **options))
        return programs[-1]

    try:
        yield start
    finally:
        for program in programs:
            if program.process.poll() is None:
                program.stop()
    for program in programs:
        assert program.noise() == []


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServeFactory]:
    """Start a server: ``serve(arguments...).ready()``."""
    with serving(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProgram]:
    """One server for all tests of a file, with a further port."""
    with serving(tmp_path_factory.mktemp("server")) as start:
        yield start("--also-listen", str(free_port())).ready()


class Clients:
    """Peers, and bare sockets that speak STUN."""

    def __init__(self, folder: Path, peers: contextlib.AsyncExitStack) -> None:
        self._folder = folder
        self._peers = peers

    async def peer(
        self, url: str, name: str, *, folder: str = "", **options: object
    ) -> knothole.Peer:
        """A registered peer that leaves at the end of the test. ``folder`` is its name's own."""
        profile = Profile.create(self._folder / (folder or name), name, parse_server_url(url))
        profile.save()
        return await self._peers.enter_async_context(knothole.Peer(profile, **options))

    async def relayed(self, url: str, name: str) -> knothole.Peer:
        """A registered peer that has a relayed address."""
        peer = await self.peer(url, name)
        await until(lambda: CandidateKind.RELAYED in kinds(peer))
        return peer

    async def is_served(self, url: str, name: str) -> None:
        """A client like any other gets all it needs: a name, a mapped and a relayed address."""
        peer = await self.relayed(url, name)
        await until(lambda: peer.endpoint.gatherer.udp_works)


def kinds(peer: knothole.Peer) -> set[CandidateKind]:
    return {candidate.candidate.kind for candidate in peer.endpoint.gatherer.candidates}


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[Clients]:
    async with contextlib.AsyncExitStack() as peers:
        yield Clients(tmp_path / "peers", peers)


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Wait for ``condition``; how long it took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise AssertionError("it did not happen")
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], bool]], Awaitable[float]]:
    return until


BINDING = Message(MessageClass.REQUEST, Method.BINDING, b"t" * 12)


def ask_again_and_again(sock: socket.socket, request: bytes) -> bytes:
    """The answer to a datagram, which is sent every second as long as there is none."""
    sock.settimeout(1.0)
    for _ in range(int(PATIENCE)):
        sock.send(request)
        with contextlib.suppress(TimeoutError):
            return sock.recv(2048)
    raise AssertionError("no answer")


class Stun:
    """Asks for the mapped address in every way there is; the answers are whole or there are none.

    ``alpn`` None is TLS without ALPN, "" no TLS at all, and none given stun.turn.
    """

    def udp(self, host: str, port: int, request: bytes = b"") -> Message:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, port))
            answer = decode(ask_again_and_again(sock, request or encode(BINDING)), classic=True)
            mapped = answer.get(XorMappedAddress)
            assert mapped is None or mapped.address == Address(*sock.getsockname()[:2])
            return answer

    def stream(self, host: str, port: int, *alpn: str | None) -> Message:
        with socket.create_connection((host, port), timeout=PATIENCE) as plain:
            sock = plain if alpn == ("",) else open_tls(plain, *(alpn or ("stun.turn",)))
            with sock:
                sock.sendall(encode(BINDING))
                framer, messages = StreamFramer(), []
                while not messages:
                    data = sock.recv(2048)
                    assert data, "the connection was closed"
                    messages = framer.feed(data)
                answer = decode(messages[0])
                mapped = answer.get(XorMappedAddress)
                assert mapped is not None
                assert mapped.address == Address(*sock.getsockname()[:2])
                return answer


def make_tls_context(*alpn: str | None) -> ssl.SSLContext:
    """A client's, that trusts everybody; of ``alpn`` None is nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if names := [name for name in alpn if name is not None]:
        context.set_alpn_protocols(names)
    return context


@pytest.fixture
def tls_context() -> Callable[..., ssl.SSLContext]:
    return make_tls_context


def open_tls(plain: socket.socket, *alpn: str | None) -> ssl.SSLSocket:
    return make_tls_context(*alpn).wrap_socket(plain)


def make_client_hello(alpn: Sequence[str]) -> bytes:
    """What a TLS client sends first."""
    return _client_hello(tuple(alpn))


@functools.cache
def _client_hello(alpn: tuple[str, ...]) -> bytes:
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        make_tls_context(*alpn).wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


@pytest.fixture
def client_hello() -> Callable[[Sequence[str]], bytes]:
    return make_client_hello


@pytest.fixture
def stun() -> Stun:
    return Stun()


@pytest.fixture
def tls() -> Callable[[socket.socket, str | None], ssl.SSLSocket]:
    return open_tls


@pytest.fixture(name="free_port")
def free_port_fixture() -> Callable[[], int]:
    return free_port

"""The ICE engine on real UDP sockets, and other people's agents at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.ice import (
    STANDARD,
    BestPairChanged,
    IceAgent,
    IceCredentials,
    IceFailed,
    IceOptions,
    Nominated,
    generate_credentials,
)
from knothole.engine.turn.client import Allocated, Allocation, Credentials, RelayedDataReceived
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.candidate import (
    Candidate,
    CandidateKind,
    candidate_priority,
    decode_candidate,
    encode_candidate,
)
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Message,
    MessageClass,
    Method,
    encode,
    looks_like_stun,
)

from ...ports import free_port

LIBNICE_PROGRAM = Path(__file__).with_name("libnice_agent.py")
SYSTEM_PYTHON = "/usr/bin/python3"  # the one that Debian's python3-gi belongs to
PATIENCE_SECONDS = 40


class KnotholeAgent(asyncio.DatagramProtocol):
    """One IceAgent on loopback sockets: input, drain, re-arm."""

    def __init__(self, controlling: bool, options: IceOptions = STANDARD, seed: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        randbytes = random.Random(seed).randbytes
        self.agent = IceAgent(
            controlling=controlling,
            local=generate_credentials(randbytes),
            tie_breaker=int.from_bytes(randbytes(8), "big"),
            random=randbytes,
            now=self._loop.time(),
            options=options,
        )
        self.candidates: list[Candidate] = []
        self.events: list[object] = []
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.relays: dict[Address, Callable[[Datagram], None]] = {}
        self.servers: dict[Address, Callable[[Datagram], None]] = {}
        self._allocations: list[Relay] = []
        self._transports: dict[Address, asyncio.DatagramTransport] = {}
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    async def bind(self, host: str = "127.0.0.1") -> Address:
        """A socket, which is a base without a candidate yet."""
        holder: list[Address] = []
        protocol = _Socket(lambda data, source: self.arrived(Datagram(source, holder[0], data)))
        transport, _ = await self._loop.create_datagram_endpoint(
            lambda: protocol, local_addr=(host, 0)
        )
        holder.append(parse_address(*transport.get_extra_info("sockname")[:2]))
        self._transports[holder[0]] = transport
        return holder[0]

    async def add_relayed(self, server: Server) -> None:
        """A relayed address on ``server``, told to the peer as a candidate."""
        self._allocations.append(Relay(self, await self.bind(), server))
        await self._allocations[-1].allocated()

    async def add_host(self, host: str = "127.0.0.1", preference: int = 65535) -> Address:
        base = await self.bind(host)
        self.add(CandidateKind.HOST, base, preference)
        return base

    def add(self, kind: CandidateKind, base: Address, preference: int = 65535) -> None:
        name = f"{kind.value}{len(self.candidates)}"
        priority = candidate_priority(kind, preference)
        related = base if kind is CandidateKind.RELAYED else None
        added = Candidate(name, 1, "udp", priority, base, kind, related)
        self.candidates.append(added)
        self.agent.add_local_candidate(added, base, self._loop.time())
        self.turn()

    def meet(self, ufrag: str, password: str, candidates: list[str], done: bool = True) -> None:
        now = self._loop.time()
        self.agent.set_remote_credentials(IceCredentials(ufrag, password), now)
        for line in candidates:
            self.agent.add_remote_candidate(decode_candidate(line), now)
        if done:
            self.agent.end_of_local_candidates(now)
            self.agent.end_of_remote_candidates(now)
        self.turn()

    def lines(self) -> list[str]:
        return [encode_candidate(each) for each in self.candidates]

    def arrived(self, datagram: Datagram) -> None:
        if datagram.source in self.servers:
            self.servers[datagram.source](datagram)
        elif looks_like_stun(datagram.payload):
            if self.agent.accepts(datagram):
                self.agent.receive(datagram, self._loop.time())
                self.turn()
        elif self.agent.is_authenticated_remote(datagram.destination, datagram.source):
            self.received.put_nowait(datagram.payload)

    def send(self, payload: bytes) -> None:
        best = self.agent.best_pair
        assert best is not None
        self.transmit(Datagram(best.base, best.remote_address, payload))

    def transmit(self, datagram: Datagram) -> None:
        if datagram.source in self.relays:
            self.relays[datagram.source](datagram)
        elif (transport := self._transports.get(datagram.source)) is not None:
            transport.sendto(datagram.payload, datagram.destination)

    def turn(self) -> None:
        """Drain the engine and set the alarm anew."""
        for output in self.agent.outputs():
            if isinstance(output, Transmit):
                self.transmit(output.datagram)
            else:
                self.events.append(output)
                self._changed.set()
        if self._timer is not None:
            self._timer.cancel()
        at = self.agent.next_timeout()
        self._timer = None if at is None else self._loop.call_at(at, self._wake)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for ``condition`` to hold after some event."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                assert not self.of(IceFailed), f"ICE failed while waiting for {what}"
                self._changed.clear()
                await self._changed.wait()

    async def nominated(self) -> None:
        await self.until(lambda: self.agent.selected_pair, "a nominated pair")

    def of(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, kind)]

    def close(self) -> None:
        for relay in self._allocations:
            relay.close()
        if self._timer is not None:
            self._timer.cancel()
        for transport in self._transports.values():
            transport.close()

    def _wake(self) -> None:
        self.agent.handle_timeout(self._loop.time())
        self.turn()


class Relay:
    """An allocation of ours on a TURN server; its relayed address is one more base of ``owner``."""

    def __init__(self, owner: KnotholeAgent, local: Address, server: Server) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._timer: asyncio.TimerHandle | None = None
        self._ready = asyncio.Event()
        self.allocation = Allocation(
            local=local,
            server=server.address,
            transport=Transport.UDP,
            credentials=Credentials(server.username, server.password),
            random=random.Random(3).randbytes,
            now=self._loop.time(),
        )
        owner.servers[server.address] = self.arrived
        self.turn()

    async def allocated(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._ready.wait()

    def arrived(self, datagram: Datagram) -> None:
        self.allocation.receive(datagram, self._loop.time())
        self.turn()

    def send(self, datagram: Datagram) -> None:
        now = self._loop.time()
        self.allocation.send(datagram.destination, datagram.payload, 0, now)
        self.turn()

    def turn(self) -> None:
        for output in self.allocation.outputs():
            match output:
                case Transmit(datagram):
                    self._owner.transmit(datagram)
                case Allocated(relayed):
                    self._owner.relays[relayed] = self.send
                    self._owner.add(CandidateKind.RELAYED, relayed)
                    self._ready.set()
                case RelayedDataReceived(datagram):
                    self._owner.arrived(datagram)
                case _:
                    raise AssertionError(f"the relay says {output}")
        if self._timer is not None:
            self._timer.cancel()
        at = self.allocation.next_timeout()
        self._timer = None if at is None else self._loop.call_at(at, self._wake)

    def close(self) -> None:
        self.allocation.close(self._loop.time())
        self.turn()
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        self.allocation.handle_timeout(self._loop.time())
        self.turn()


@dataclass(frozen=True)
class Server:
    """A TURN server and a user that it knows."""

    address: Address
    username: str
    password: str


async def answers(server: Address) -> None:
    """Return when a STUN server answers there: agents give up what is silent too long."""
    loop = asyncio.get_running_loop()
    request = encode(Message(MessageClass.REQUEST, Method.BINDING, bytes(TRANSACTION_ID_SIZE)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        probe.connect(server)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(OSError):  # refused, or nothing yet
                    await loop.sock_sendall(probe, request)
                    async with asyncio.timeout(0.2):
                        await loop.sock_recv(probe, 2048)
                    return
                await asyncio.sleep(0.02)


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, arrived: Callable[[bytes, Address], None]) -> None:
        self._arrived = arrived

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._arrived(data, parse_address(addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """ICMP from a port that is not open yet: the check is repeated."""


class LibniceAgent:
    """libnice in a process of its own, spoken to in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.ufrag = self.password = ""
        self.candidates: list[str] = []

    @classmethod
    async def start(cls, *arguments: str) -> LibniceAgent:
        return await cls.run([SYSTEM_PYTHON, str(LIBNICE_PROGRAM), *arguments])

    @classmethod
    async def run(cls, command: Sequence[str], **options: Any) -> LibniceAgent:
        """Started by that command line; ``options`` are those of a subprocess."""
        process = await asyncio.create_subprocess_exec(
            *command,
            **options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=sys.stderr,
        )
        agent = cls(process)
        gathered = await agent.hear("candidates")
        agent.ufrag, agent.password = gathered["ufrag"], gathered["password"]
        agent.candidates = gathered["candidates"]
        return agent

    def tell(self, **message: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def meet(self, other: KnotholeAgent, candidates: list[str] | None = None) -> None:
        credentials = other.agent.local_credentials
        lines = other.lines() if candidates is None else candidates
        self.tell(ufrag=credentials.ufrag, password=credentials.password, candidates=lines)

    async def hear(self, key: str, value: object = None) -> dict:
        """The next line that has ``key``, and ``value`` under it if one is given."""
        assert self._process.stdout
        async with asyncio.timeout(PATIENCE_SECONDS):
            while line := await self._process.stdout.readline():
                message = json.loads(line)
                if key in message and value in (None, message[key]):
                    return message
        raise AssertionError(f"libnice ended before it said {key}")

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


class Interop:
    """What the tests of this folder are made of; closes what they opened."""

    Nominated, BestPairChanged = Nominated, BestPairChanged

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._coturn: list[asyncio.subprocess.Process] = []
        self._ours: list[KnotholeAgent] = []
        self._libnice: list[LibniceAgent] = []

    def knothole(self, controlling: bool, options: IceOptions = STANDARD) -> KnotholeAgent:
        self._ours.append(KnotholeAgent(controlling, options))
        return self._ours[-1]

    async def libnice(self, *arguments: str) -> LibniceAgent:
        self._libnice.append(await LibniceAgent.start(*arguments))
        return self._libnice[-1]

    async def coturn(self) -> Server:
        """Debian's coturn on loopback, relaying to loopback."""
        port = free_port()
        server = Server(Address("127.0.0.1", port), "alice", "secret")
        arguments = (
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "--lt-cred-mech",
            "--listening-ip=127.0.0.1",
            "--relay-ip=127.0.0.1",
            "--allow-loopback-peers",
            "--realm=test",
            "--log-file=stdout",
        )
        self._coturn.append(
            await asyncio.create_subprocess_exec(
                "turnserver",
                "-n",
                *arguments,
                f"--listening-port={port}",
                f"--user={server.username}:{server.password}",
                f"--pidfile={self._folder / 'turnserver.pid'}",
                f"--userdb={self._folder / 'turndb'}",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )
        await answers(server.address)
        return server

    async def close(self) -> None:
        for ours in self._ours:
            ours.close()
        for theirs in self._libnice:
            await theirs.close()
        for server in self._coturn:
            if server.returncode is None:
                server.kill()
            await server.wait()


@pytest.fixture
async def interop(tmp_path: Path) -> AsyncIterator[Interop]:
    opened = Interop(tmp_path)
    try:
        yield opened
    finally:
        await opened.close()

"""TCP hole punching on this machine's sockets: one local port for several connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import pytest

from knothole.engine.core import Datagram
from knothole.engine.endpoint.tcp_events import (
    CloseTcp,
    OpenTcp,
    ProbeTcp,
    TcpClosed,
    TcpEvent,
    TcpFailed,
    TcpOpened,
    TcpProbed,
)
from knothole.io.punched import PunchedStream
from knothole.io.stream_link import MAX_UNSENT
from knothole.io.tcp_punch import SECOND_PORT, TcpPuncher
from knothole.wire.address import Address, Transport
from knothole.wire.framed import Unframer, frame
from knothole.wire.stun import Message, MessageClass, XorMappedAddress, decode, encode

from ..ports import free_port

CALL, HOST = b"call", "127.0.0.1"


class Puncher:
    """A puncher, and everything it has told."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[TcpEvent] = asyncio.Queue()
        self.datagrams: asyncio.Queue[Datagram] = asyncio.Queue()
        self.attached: list[PunchedStream] = []
        self.wanted = True
        self._tasks: set[asyncio.Task[None]] = set()
        self.puncher = TcpPuncher(
            self._spawn, self._received, self._report, self.attached.append, lambda stream: None
        )

    async def next(self) -> TcpEvent:
        async with asyncio.timeout(40.0):
            return await self.events.get()

    async def probed(self, *servers: Address) -> TcpProbed:
        self.puncher.carry_out(ProbeTcp(CALL, HOST, servers))
        event = await self.next()
        assert isinstance(event, TcpProbed)
        return event

    async def close(self) -> None:
        self.puncher.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    def _received(self, datagrams: Sequence[Datagram]) -> None:
        for datagram in datagrams:
            self.datagrams.put_nowait(datagram)

    def _report(self, owner: bytes, event: TcpEvent) -> bool:
        assert owner == CALL
        self.events.put_nowait(event)
        return self.wanted


@pytest.fixture
async def punch() -> AsyncIterator[Puncher]:
    puncher = Puncher()
    yield puncher
    await puncher.close()


async def stun(answers: bool = True) -> tuple[asyncio.Server, Address, list[int]]:
    """A server that says what it sees, or nonsense; and the ports that it saw."""
    seen: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        remote = Address(*writer.get_extra_info("peername")[:2])
        seen.append(remote.port)
        request = decode(await reader.readexactly(20))
        message = Message(
            MessageClass.SUCCESS,
            request.method,
            request.transaction_id,
            (XorMappedAddress(remote),),
        )
        writer.write(encode(message) if answers else b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    return server, Address(*server.sockets[0].getsockname()), seen


async def test_two_servers_see_one_port_and_the_first_sees_a_second_one(punch: Puncher) -> None:
    (one, at_one, seen_by_one), (other, at_other, seen_by_other) = await stun(), await stun()
    async with one, other:
        probed = await punch.probed(at_one, at_other)
    first, second, third = probed.samples
    assert (first.server, second.server, third.server) == (at_one, at_one, at_other)
    assert first.local == third.local
    assert second.local != first.local
    # Beyond the last port it goes on 0x8000 below.
    assert (second.local.port - first.local.port) % 0x8000 % SECOND_PORT == 0
    assert seen_by_one == [first.mapped.port, second.mapped.port]
    assert seen_by_other == [third.mapped.port] == [first.local.port]
    punch.puncher.carry_out(CloseTcp(first.local))
    punch.puncher.carry_out(CloseTcp(second.local))


async def test_servers_that_are_not_there_or_speak_otherwise_are_no_samples(punch: Puncher) -> None:
    server, address, _ = await stun(answers=False)
    async with server:
        assert (await punch.probed(address)).samples == ()
    assert (await punch.probed(Address(HOST, free_port()))).samples == ()


async def test_the_port_that_was_probed_connects_and_carries_datagrams(punch: Puncher) -> None:
    server, address, _ = await stun()
    async with server:
        local = (await punch.probed(address)).samples[0].local
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        unframer = Unframer()
        writer.write(frame(b"from the peer") + frame(b"") + frame(b"again"))
        while data := await reader.read(4096):
            for payload in unframer.feed(data):
                got.put_nowait(payload)
        writer.close()

    peer = await asyncio.start_server(serve, HOST, 0)
    remote = Address(*peer.sockets[0].getsockname())
    async with peer:
        punch.puncher.carry_out(OpenTcp(CALL, local, (remote,), 40.0))
        assert await punch.next() == TcpOpened(local, remote)
        [stream] = punch.attached
        stream.send(Datagram(local, remote, b"onetwothr", 3, Transport.TCP))
        assert [await got.get() for _ in range(3)] == [b"one", b"two", b"thr"]
        came = [await punch.datagrams.get() for _ in range(2)]
        assert [d.payload for d in came] == [b"from the peer", b"again"]
        assert {(d.source, d.destination, d.transport) for d in came} == {
            (remote, local, Transport.TCP)
        }
        punch.puncher.carry_out(CloseTcp(local))
    assert punch.events.empty(), "who closes it is not told"


async def test_a_connection_that_the_peer_ends_is_told_of(punch: Puncher) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    peer = await asyncio.start_server(serve, HOST, 0)
    remote = Address(*peer.sockets[0].getsockname())
    local = Address(HOST, free_port())
    async with peer:
        punch.puncher.carry_out(OpenTcp(CALL, local, (remote,), 40.0))
        assert await punch.next() == TcpOpened(local, remote)
        assert await punch.next() == TcpClosed(local, remote)


async def test_a_second_try_that_fails_leaves_the_connection_that_there_is(
    punch: Puncher,
) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        closed.set()
        writer.close()

    peer = await asyncio.start_server(serve, HOST, 0)
    remote = Address(*peer.sockets[0].getsockname())
    local = Address(HOST, free_port())
    async with peer:
        punch.puncher.carry_out(OpenTcp(CALL, local, (remote,), 40.0))
        assert await punch.next() == TcpOpened(local, remote)
        punch.puncher.carry_out(OpenTcp(CALL, local, (remote,), 40.0))
        assert await punch.next() == TcpFailed(local), "it is there already"
        punch.puncher.carry_out(CloseTcp(local))
        async with asyncio.timeout(40.0):
            await closed.wait()


async def test_a_try_that_is_refused_everywhere_fails_once(punch: Puncher) -> None:
    ports = free_port(), free_port()
    local = Address(HOST, free_port())
    remotes = tuple(Address(HOST, port) for port in ports)
    punch.puncher.carry_out(OpenTcp(CALL, local, remotes, 5.0))
    assert await punch.next() == TcpFailed(local)
    assert punch.events.empty()


async def test_who_is_cancelled_leaves_no_socket_and_no_task() -> None:
    """Warnings about sockets that nobody closed are errors here."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server((HOST, 0)))
        full = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(2):
            waits = stack.enter_context(socket.socket())
            waits.setblocking(False)
            waits.connect_ex(full.getsockname())
        local = Address(HOST, free_port())
        before, puncher = asyncio.all_tasks(), Puncher()
        puncher.puncher.carry_out(ProbeTcp(CALL, HOST, (Address(*silent.getsockname()),)))
        nobody = (Address(*full.getsockname()),)
        puncher.puncher.carry_out(OpenTcp(CALL, local, nobody, 30.0))
        for _ in range(5):
            await asyncio.sleep(0)
        assert puncher.events.empty(), "all is under way"
        await puncher.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        del puncher
        gc.collect()


async def test_what_the_call_does_not_want_any_more_is_closed(punch: Puncher) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        closed.set()
        writer.close()

    peer = await asyncio.start_server(serve, HOST, 0)
    remote = Address(*peer.sockets[0].getsockname())
    local = Address(HOST, free_port())
    punch.wanted = False
    async with peer:
        punch.puncher.carry_out(OpenTcp(CALL, local, (remote,), 40.0))
        async with asyncio.timeout(40.0):
            await closed.wait()


def test_a_stream_that_is_full_drops_as_a_line_does() -> None:
    class Full:
        written = 0

        def is_closing(self) -> bool:
            return False

        def get_write_buffer_size(self) -> int:
            return self.written

        def write(self, data: bytes) -> None:
            self.written += len(data)

    local, remote = Address(HOST, 1), Address(HOST, 2)
    stream, full = PunchedStream(local, remote, lambda _: None, lambda _: None), Full()
    stream.connection_made(full)  # type: ignore[arg-type]
    for _ in range(1000):
        stream.send(Datagram(local, remote, random.Random(1).randbytes(1200)))
    assert full.written <= MAX_UNSENT + 1202
    assert not stream.is_blocked

"""UDP sockets on loopback: bursts with and without offload, refusals, blocking, closing."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from knothole.engine.core import Datagram
from knothole.io import udp
from knothole.io.offload import NoOffload
from knothole.io.udp import EndpointUdp, UdpLink, UdpSocket, open_udp
from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address

from ..ports import free_port

HOSTS = ["127.0.0.1", "::1"]
QUIC = b"\x40"  # first byte of a QUIC packet with a short header
STUN = b"\x00"


class Inbox:
    """What came, and a way to wait for it."""

    def __init__(self) -> None:
        self.datagrams: list[Datagram] = []
        self._changed = asyncio.Event()

    def __call__(self, datagrams) -> None:
        self.datagrams += datagrams
        self._changed.set()

    @property
    def segments(self) -> list[bytes]:
        return [segment for datagram in self.datagrams for segment in datagram.segments()]

    async def wait_for(self, count: int) -> list[bytes]:
        async with asyncio.timeout(40):
            while len(self.segments) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.segments


Opener = Callable[..., Awaitable[UdpLink]]


@pytest.fixture
async def links() -> AsyncIterator[Opener]:
    opened: list[UdpLink] = []

    async def open_link(host: str, inbox: Inbox, *, kind: str = "offload") -> UdpLink:
        if kind == "endpoint":
            link: UdpLink = await EndpointUdp.open(bind_socket(Address(host, 0)), inbox)
        else:
            link = await open_udp(Address(host, 0), inbox, offload=kind == "offload")
        opened.append(link)
        return link

    yield open_link
    for link in opened:
        link.close()
    await asyncio.sleep(0)


def burst(count: int, size: int, last: int | None = None) -> bytes:
    parts = [QUIC + bytes([number]) * (size - 1) for number in range(count)]
    return b"".join(parts) + (QUIC * last if last else b"")


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("sender", ["offload", "plain", "endpoint"])
@pytest.mark.parametrize("receiver", ["offload", "plain", "endpoint"])
async def test_a_burst_arrives_as_the_datagrams_it_holds(links, host, sender, receiver) -> None:
    inbox = Inbox()
    here, there = await links(host, Inbox(), kind=sender), await links(host, inbox, kind=receiver)
    payload = burst(40, 1200, last=300)
    here.send(Datagram(here.address, there.address, payload, 1200))
    segments = await inbox.wait_for(41)
    assert b"".join(segments) == payload
    assert {len(segment) for segment in segments[:-1]} == {1200}
    assert {datagram.source for datagram in inbox.datagrams} == {here.address}
    assert {datagram.destination for datagram in inbox.datagrams} == {there.address}


async def test_offload_gives_a_burst_in_one_piece(links) -> None:
    inbox = Inbox()
    here, there = await links("127.0.0.1", Inbox()), await links("127.0.0.1", inbox)
    here.send(Datagram(here.address, there.address, burst(54, 1200), 1200))
    await inbox.wait_for(54)
    ((size, length),) = [(item.segment_size, len(item.payload)) for item in inbox.datagrams]
    assert (size, length) == (1200, 54 * 1200)


@pytest.mark.parametrize("kind", ["offload", "plain", "endpoint"])
async def test_single_datagrams_of_any_size_arrive(links, kind) -> None:
    inbox = Inbox()
    here, there = await links("127.0.0.1", Inbox(), kind=kind), await links("127.0.0.1", inbox)
    sizes = [1, 1200, 1199, 1400, 9000, 65_000]
    for size in sizes:
        here.send(Datagram(here.address, there.address, STUN * size))
    assert [len(segment) for segment in await inbox.wait_for(len(sizes))] == sizes


@pytest.mark.parametrize("kind", ["offload", "plain", "endpoint"])
async def test_an_empty_datagram_is_one(links, kind) -> None:
    inbox = Inbox()
    there = await links("127.0.0.1", inbox, kind=kind)
    with bind_socket(Address("127.0.0.1", 0)) as sock:
        sock.sendto(b"", there.address)
        sock.sendto(STUN, there.address)
    assert await inbox.wait_for(2) == [b"", STUN]


async def test_a_stun_message_at_the_end_of_a_burst_comes_by_itself(links) -> None:
    """The kernel lets a shorter datagram end a burst, whatever it is."""
    inbox = Inbox()
    here, there = await links("127.0.0.1", Inbox()), await links("127.0.0.1", inbox)
    here.send(Datagram(here.address, there.address, burst(3, 1200) + STUN * 100, 1200))
    await inbox.wait_for(4)
    assert [datagram.payload[:1] for datagram in inbox.datagrams] == [QUIC, QUIC, QUIC, STUN]


async def test_a_burst_that_no_device_takes_leaves_one_by_one(links, monkeypatch) -> None:
    inbox, calls = Inbox(), []

    class Refusing(NoOffload):
        can_segment = True

        def send_burst(self, *_: object) -> None:
            calls.append(1)
            raise OSError(errno.EIO, "no checksum offload")

    monkeypatch.setattr(udp, "make_offload", lambda sock, enabled, coalesce: Refusing())
    here = await links("127.0.0.1", Inbox())
    monkeypatch.undo()
    there = await links("127.0.0.1", inbox)
    for _ in range(20):
        here.send(Datagram(here.address, there.address, burst(3, 1000), 1000))
    assert len(await inbox.wait_for(60)) == 60
    assert len(calls) < 20  # it stops trying


async def test_a_burst_of_segments_that_exceed_the_mtu_is_lost_without_harm(links) -> None:
    inbox = Inbox()
    here, there = await links("127.0.0.1", Inbox()), await links("127.0.0.1", inbox)
    # Two segments of 40,000 bytes exceed a datagram: EMSGSIZE; one by one they pass on loopback.
    here.send(Datagram(here.address, there.address, QUIC * 80_000, 40_000))
    here.send(Datagram(here.address, there.address, bytes(70_000)))
    here.send(Datagram(here.address, there.address, STUN))
    assert [len(segment) for segment in await inbox.wait_for(3)] == [40_000, 40_000, 1]


@pytest.mark.parametrize("kind", ["offload", "plain", "endpoint"])
async def test_a_refusing_destination_does_not_end_the_socket(links, kind) -> None:
    inbox = Inbox()
    here, there = await links("127.0.0.1", inbox, kind=kind), await links("127.0.0.1", Inbox())
    nobody = Address("127.0.0.1", free_port())
    for _ in range(20):
        here.send(Datagram(here.address, nobody, b"anybody?"))
        await asyncio.sleep(0)
    there.send(Datagram(there.address, here.address, b"still here"))
    assert await inbox.wait_for(1) == [b"still here"]


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH])
async def test_an_error_that_belongs_to_an_earlier_datagram_is_read_over(
    links, monkeypatch, error
) -> None:
    """ICMP errors (WinError 10054 is ECONNRESET) come out of a receive call."""
    inbox, failures = Inbox(), [OSError(error, "earlier")] * 3

    class Failing(NoOffload):
        def receive(self, sock: socket.socket):
            if failures:
                raise failures.pop()
            return super().receive(sock)

    monkeypatch.setattr(udp, "make_offload", lambda sock, enabled, coalesce: Failing())
    here, there = await links("127.0.0.1", inbox), await links("127.0.0.1", Inbox())
    there.send(Datagram(there.address, here.address, b"hello"))
    assert await inbox.wait_for(1) == [b"hello"]
    assert not failures


async def test_unroutable_and_broadcast_destinations_raise_nothing(links) -> None:
    here = await links("127.0.0.1", Inbox())
    for host, port in (("255.255.255.255", 9), ("240.0.0.1", 9), ("203.0.113.1", 0)):
        here.send(Datagram(here.address, Address(host, port), b"x"))
        here.send(Datagram(here.address, Address(host, port), burst(2, 100), 100))


class Grudging(NoOffload):
    """A kernel that takes no burst until it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.can_segment = True
        self.willing = False

    def send_burst(self, sock, payload, segment_size, destination) -> None:
        if not self.willing:
            raise BlockingIOError(errno.EAGAIN, "full")
        for start in range(0, len(payload), segment_size):
            sock.sendto(payload[start : start + segment_size], destination)


async def test_what_the_kernel_does_not_take_now_waits_in_order_and_bounded(
    links, monkeypatch
) -> None:
    inbox, made = Inbox(), []

    def make(sock, enabled, coalesce):
        made.append(Grudging(sock))
        return made[0]

    monkeypatch.setattr(udp, "make_offload", make)
    here = await links("127.0.0.1", Inbox())
    monkeypatch.undo()
    there = await links("127.0.0.1", inbox)
    here.send(Datagram(here.address, there.address, burst(3, 1000), 1000))
    assert here.is_blocked
    here.send(Datagram(here.address, there.address, STUN))
    for _ in range(udp.QUEUE_BYTES // 60_000 + 50):  # more than the queue holds is dropped
        here.send(Datagram(here.address, there.address, burst(60, 1000), 1000))
    written = asyncio.Event()
    here.when_writable(written.set)
    await asyncio.sleep(0)
    assert not written.is_set()
    made[0].willing = True
    async with asyncio.timeout(40):
        await written.wait()
    assert not here.is_blocked
    segments = await inbox.wait_for(64)
    assert b"".join(segments[:4]) == burst(3, 1000) + STUN
    assert len(segments) <= udp.QUEUE_BYTES // 1000 + 4


async def test_writable_is_told_at_once_when_nothing_blocks(links) -> None:
    for kind in ("offload", "endpoint"):
        here = await links("127.0.0.1", Inbox(), kind=kind)
        written = asyncio.Event()
        here.when_writable(written.set)
        async with asyncio.timeout(40):
            await written.wait()


@pytest.mark.parametrize("kind", ["offload", "plain", "endpoint"])
async def test_a_closed_socket_is_silent_and_frees_its_port(links, kind) -> None:
    here = await links("127.0.0.1", Inbox(), kind=kind)
    address = here.address
    here.close()
    here.close()
    here.send(Datagram(address, address, b"x"))
    await asyncio.sleep(0)
    with bind_socket(address):
        pass


async def test_a_socket_may_be_closed_by_what_it_receives(links) -> None:
    seen: list[int] = []

    def close(datagrams) -> None:
        seen.append(len(datagrams))
        there.close()

    here = await links("127.0.0.1", Inbox())
    there = await links("127.0.0.1", close)
    for _ in range(5):
        here.send(Datagram(here.address, there.address, STUN))
    await asyncio.sleep(0.05)
    assert len(seen) == 1


async def test_an_address_in_use_is_refused_and_leaves_nothing_open(links) -> None:
    here = await links("127.0.0.1", Inbox())
    with pytest.raises(OSError, match="in use"):
        await open_udp(here.address, Inbox())


async def test_a_loop_without_readers_gets_an_endpoint(monkeypatch) -> None:
    def refuse(self, *_: object) -> None:
        raise NotImplementedError

    loop = asyncio.get_running_loop()
    link = None
    with monkeypatch.context() as patch:
        patch.setattr(type(loop), "add_reader", refuse)
        patch.setattr(UdpSocket, "close", lambda self: None)
        link = await open_udp(Address("127.0.0.1", 0), Inbox())
    assert isinstance(link, EndpointUdp)
    link.close()
    await asyncio.sleep(0)


def test_an_ipv6_socket_takes_no_ipv4() -> None:
    port = free_port()  # one that the kernel gives for IPv6 somebody may have for IPv4
    with bind_socket(Address("::", port)), bind_socket(Address("0.0.0.0", port)):
        pass


def test_bursts_pass_under_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop", reason="not for this system")

    async def exchange() -> list[bytes]:
        inbox = Inbox()
        there = await open_udp(Address("127.0.0.1", 0), inbox)
        here = await open_udp(Address("127.0.0.1", 0), Inbox())
        here.send(Datagram(here.address, there.address, burst(40, 1200), 1200))
        segments = await inbox.wait_for(40)
        here.close()
        there.close()
        return segments

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert b"".join(runner.run(exchange())) == burst(40, 1200)

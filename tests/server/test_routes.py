"""Shortcuts carried out in user space, on loopback sockets: what goes on at once, what does not."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Iterator

import pytest

from knothole.engine.core import Datagram
from knothole.engine.turn.budget import Budget
from knothole.engine.turn.server_events import Shortcut, ShortcutKey
from knothole.io import udp
from knothole.io.bpf.layout import Count
from knothole.io.offload import NoOffload, make_offload
from knothole.server import routes
from knothole.server.crowd import A_TURN
from knothole.wire.turn import encode_channel_data

from .conftest import PATIENCE, until
from .route_ground import CHANNEL, OTHER_CHANNEL, Ground, address_of, heard, received


@pytest.fixture(params=["127.0.0.1", "::1"])
async def ground(request: pytest.FixtureRequest, batches: bool) -> Iterator[Ground]:
    made = Ground(request.param, batches)
    yield made
    made.close()


async def test_channel_data_goes_to_the_peer_from_the_relayed_address_without_the_engine(
    ground: Ground,
) -> None:
    ground.to_peer()
    ground.send(b"payload")
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        payload, source = await loop.sock_recvfrom(ground.peer, 100)
    assert (payload, source[:2]) == (b"payload", ground.relayed)
    assert ground.to_engine == []


async def test_what_a_peer_sends_comes_to_the_client_as_channel_data(ground: Ground) -> None:
    ground.to_client()
    loop = asyncio.get_running_loop()
    ground.peer.sendto(b"payload", ground.relayed)
    async with asyncio.timeout(PATIENCE):
        message, source = await loop.sock_recvfrom(ground.client, 100)
    assert message == encode_channel_data(CHANNEL, b"payload", False)
    assert source[:2] == ground.server
    assert ground.to_engine == []


async def test_between_two_clients_only_the_channel_number_changes(ground: Ground) -> None:
    expires_at = time.monotonic() + 600
    shortcut = Shortcut(ground.server, address_of(ground.other), OTHER_CHANNEL, expires_at)
    ground.routes.install(ground.out, shortcut, (ground.free,))
    ground.send(b"payload")
    assert await received(ground.other, 1) == [
        encode_channel_data(OTHER_CHANNEL, b"payload", False)
    ]
    ground.routes.report()
    assert ground.counts() == {ground.out: Count(1, 7)}


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 300])
async def test_many_at_once_come_whole_and_in_order_whatever_their_sizes(
    ground: Ground, count: int
) -> None:
    ground.to_peer()
    ground.to_client()
    payloads = [bytes([number % 251]) * (1 + number * 37 % 1200) for number in range(count)]
    payloads[count // 2] = bytes(1200)  # equal ones in a row, with a shorter one behind
    ground.send(*payloads)
    assert await received(ground.peer, count) == payloads
    for payload in payloads:
        ground.peer.sendto(payload, ground.relayed)
    assert await received(ground.client, count) == [
        encode_channel_data(CHANNEL, payload, False) for payload in payloads
    ]
    assert ground.to_engine == []
    ground.routes.report()
    octets = sum(map(len, payloads))
    each = Count(count, octets)
    assert ground.counts() == {ground.out: each, ground.back: each}


async def test_equal_ones_leave_together_and_come_apart_again(ground: Ground) -> None:
    ground.to_peer()
    payloads = [bytes([number]) * 1000 for number in range(200)]
    ground.send(*payloads, b"the end")
    assert await received(ground.peer, 201) == [*payloads, b"the end"]


async def test_large_ones_come_whole(ground: Ground) -> None:
    ground.to_peer()
    payloads = [bytes([number]) * 20_000 for number in range(8)]
    ground.send(*payloads)
    assert await received(ground.peer, 8) == payloads


async def test_what_is_odd_goes_to_the_engine_as_it_came(ground: Ground) -> None:
    ground.to_peer()
    head = CHANNEL.to_bytes(2, "big")
    odd = [
        b"",
        b"\x40",
        head,
        head + b"\0\0",
        head + b"\0\4abc",  # shorter than it says
        head + b"\0\2abc\0",  # padded
        b"\0\1\0\0" + bytes(16),  # STUN
        encode_channel_data(OTHER_CHANNEL, b"not bound", False),
    ]
    for datagram in odd:
        ground.client.sendto(datagram, ground.server)
    assert await heard(ground, len(odd)) == odd
    ground.other.sendto(encode_channel_data(CHANNEL, b"not his", False), ground.server)
    assert len(await heard(ground, len(odd) + 1)) == len(odd) + 1


async def test_what_the_engine_sends_on_and_what_goes_on_by_itself_keep_their_order(
    ground: Ground,
) -> None:
    """The engine is one that sends whatever it hears to the peer, bound or not."""
    ground.to_peer()
    ground.engine = lambda each: ground.sockets[ground.relayed].send(
        Datagram(ground.relayed, address_of(ground.peer), each.payload[4:])
    )
    order = [CHANNEL, CHANNEL, OTHER_CHANNEL, CHANNEL, OTHER_CHANNEL, OTHER_CHANNEL, CHANNEL]
    for number, channel in enumerate(order * 5):
        ground.send(bytes([number]) * (1 + number), channel=channel)
    assert await received(ground.peer, len(order) * 5) == [
        bytes([number]) * (1 + number) for number in range(len(order) * 5)
    ]


async def test_after_its_end_a_route_lets_nothing_pass(ground: Ground) -> None:
    ground.to_peer(lasts=-1.0)
    ground.send(b"late")
    assert await heard(ground, 1) == [encode_channel_data(CHANNEL, b"late", False)]


async def test_a_route_that_is_removed_lets_nothing_pass_and_its_count_is_still_reported(
    ground: Ground,
) -> None:
    ground.to_peer()
    ground.send(b"payload")
    await received(ground.peer, 1)
    ground.routes.remove(ground.out)
    ground.send(b"more")
    assert await heard(ground, 1) == [encode_channel_data(CHANNEL, b"more", False)]
    ground.routes.report()
    assert ground.counts() == {ground.out: Count(1, 7)}


def left(datagrams: float, octets: float) -> Budget:
    """A budget with so much left, to which time brings nothing worth while."""
    budget = Budget(1e-6, 1e-6, time.monotonic())
    budget.datagrams, budget.octets = datagrams, octets
    return budget


@pytest.mark.parametrize("budget", [(100, 10), (100, 15.9), (1, 1000)])
async def test_what_is_beyond_the_budget_goes_to_the_engine(ground: Ground, budget) -> None:
    shared = left(*budget)
    ground.to_peer(shared)
    ground.send(b"0123456789", b"beyond")
    assert await heard(ground, 1) == [encode_channel_data(CHANNEL, b"beyond", False)]
    expected = pytest.approx((budget[0] - 1, budget[1] - 10), abs=0.01)
    assert (shared.datagrams, shared.octets) == expected
    shared.datagrams, shared.octets = 1.01, 5.01  # as the engine does, when time has brought more
    ground.send(b"again")
    assert await received(ground.peer, 2) == [b"0123456789", b"again"]
    ground.routes.report()
    assert ground.counts() == {ground.out: Count(2, 15)}


async def test_all_routes_of_a_budget_share_it_and_both_of_a_route_are_taken_from(ground) -> None:
    mine, other = left(100, 1000), left(3, 1000)
    ground.to_peer(mine, other)
    shortcut = Shortcut(ground.relayed, address_of(ground.other), 0, time.monotonic() + 600)
    second = ShortcutKey(address_of(ground.client), ground.server, OTHER_CHANNEL)
    ground.routes.install(second, shortcut, (other,))
    ground.send(b"one", b"two")
    ground.send(b"three", channel=OTHER_CHANNEL)
    ground.send(b"four")
    assert await heard(ground, 1) == [encode_channel_data(CHANNEL, b"four", False)]
    assert await received(ground.peer, 2) == [b"one", b"two"]
    assert await received(ground.other, 1) == [b"three"]
    assert (mine.datagrams, mine.octets) == pytest.approx((98, 994), abs=0.01)
    assert (other.datagrams, other.octets) == pytest.approx((0, 989), abs=0.01)


async def test_counts_are_reported_by_and_by_without_being_asked_for(ground: Ground) -> None:
    ground.to_peer()
    ground.send(b"one", b"two")
    await until(lambda: sum(count.octets for _, count in ground.passed) >= 6)


async def test_counts_are_reported_after_a_pause_too(ground: Ground, monkeypatch) -> None:
    looks: list[object] = []
    monkeypatch.setattr(routes, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(ground.routes.connected, "look_after", looks.append)
    ground.to_peer()
    await until(lambda: bool(looks))
    ground.send(b"after")
    await until(lambda: ground.passed == [(ground.out, Count(1, 5))])


async def test_what_was_not_reported_yet_is_when_the_route_was_replaced(ground) -> None:
    ground.to_peer()
    ground.send(b"one", b"two")
    assert await received(ground.peer, 2) == [b"one", b"two"]
    ground.to_peer()
    ground.send(b"three")
    assert await received(ground.peer, 1) == [b"three"]
    ground.routes.report()
    assert ground.counts() == {ground.out: Count(3, 11)}


async def test_bursts_of_a_peer_come_to_the_client_whole(ground: Ground) -> None:
    """At first singly, and from then on as bursts, which are the engine's."""
    ground.to_client()
    ground.engine = lambda each: [
        ground.sockets[ground.server].send(
            Datagram(
                ground.server, address_of(ground.client), encode_channel_data(CHANNEL, part, False)
            )
        )
        for part in each.segments()
    ]
    offload = make_offload(ground.peer)
    for number in range(6):
        parts = [bytes([0x80 + number, part]) * 400 for part in range(20)]
        if offload.can_segment:
            offload.send_burst(ground.peer, b"".join(parts), 800, ground.relayed)
        else:
            for part in parts:
                ground.peer.sendto(part, ground.relayed)
        assert await received(ground.client, 20) == [
            encode_channel_data(CHANNEL, part, False) for part in parts
        ]
    assert not offload.can_segment or any(each.segment_size for each in ground.to_engine)


async def test_a_socket_that_the_engine_closes_in_the_midst_of_a_turn_ends_nothing_else(
    ground: Ground,
) -> None:
    ground.to_peer()
    ground.to_client()
    ground.engine = lambda _: ground.sockets[ground.relayed].close()
    ground.send(b"first")
    ground.send(b"to the engine", channel=OTHER_CHANNEL)
    ground.send(b"too late")
    ground.peer.sendto(b"too late", ground.relayed)
    assert await received(ground.peer, 1) == [b"first"]
    await heard(ground, 1)
    shortcut = Shortcut(
        ground.server, address_of(ground.other), OTHER_CHANNEL, time.monotonic() + 600
    )
    ground.routes.install(ground.out, shortcut, (ground.free,))
    ground.send(b"still there")
    assert (await received(ground.other, 1))[0][4:] == b"still there"


async def test_a_route_that_the_engine_ends_lets_nothing_pass_that_came_in_the_same_turn(
    ground: Ground,
) -> None:
    ground.to_peer()
    ground.engine = lambda _: ground.routes.remove(ground.out)
    ground.send(b"first")
    ground.send(b"the end", channel=OTHER_CHANNEL)
    ground.send(b"too late")
    assert await received(ground.peer, 1) == [b"first"]
    assert await heard(ground, 2) == [
        encode_channel_data(OTHER_CHANNEL, b"the end", False),
        encode_channel_data(CHANNEL, b"too late", False),
    ]


async def test_many_relayed_addresses_are_read_from_whole_and_each_in_order(
    ground: Ground,
) -> None:
    others = [ground.relay() for _ in range(2 * A_TURN)]
    for address in others:
        ground.to_client(address)
    for number in range(7):
        for address in others:
            ground.peer.sendto(b"%d of %d" % (number, address.port), address)
    messages = await received(ground.client, 7 * len(others))
    for address in others:
        mine = [each[4:] for each in messages if each.endswith(b" of %d" % address.port)]
        assert mine == [b"%d of %d" % (number, address.port) for number in range(7)]


class Grudging(NoOffload):
    """A kernel that takes no burst until it is told to."""

    can_segment = True
    willing = False

    def send_burst(self, sock, payload, segment_size, destination) -> None:
        if not self.willing:
            raise BlockingIOError(errno.EAGAIN, "full")
        for start in range(0, len(payload), segment_size):
            sock.sendto(payload[start : start + segment_size], destination)


async def test_behind_what_the_kernel_does_not_take_now_everything_waits_in_order(
    batches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Grudging()
    monkeypatch.setattr(udp, "make_offload", lambda *_, **__: kernel)
    ground = Ground("127.0.0.1", batches)
    ground.to_client()
    link, client = ground.sockets[ground.server], address_of(ground.client)
    link.send(Datagram(ground.server, client, b"\x80one\x80two", 4))
    assert link.is_blocked
    ground.peer.sendto(b"three", ground.relayed)
    ground.peer.sendto(b"four", ground.relayed)
    await until(lambda: sum(count.packets for _, count in ground.passed) == 2)
    kernel.willing = True
    assert await received(ground.client, 4) == [
        b"\x80one",
        b"\x80two",
        encode_channel_data(CHANNEL, b"three", False),
        encode_channel_data(CHANNEL, b"four", False),
    ]
    ground.close()

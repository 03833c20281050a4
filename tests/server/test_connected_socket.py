"""Relayed addresses with a socket of its own for a peer that much is sent to: nobody notices."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from knothole.io import connected
from knothole.io.connected import CAN_CONNECT_BESIDE
from knothole.io.udp_bind import bind_socket
from knothole.server.connected_socket import IDLE_REPORTS
from knothole.server.relayed_socket import BUSY_DATAGRAMS
from knothole.wire.turn import encode_channel_data

from .conftest import until
from .route_ground import CHANNEL, Ground, address_of, heard, received

pytestmark = pytest.mark.skipif(not CAN_CONNECT_BESIDE, reason="there are none")


@pytest.fixture(params=["127.0.0.1", "::1"])
async def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    made = Ground(request.param)
    made.to_peer()
    made.to_client()
    yield made
    made.close()


def sockets(ground: Ground) -> int:
    """How many there are that only save time."""
    return len(ground.routes.connected)


async def exchange(ground: Ground, count: int) -> None:
    """Datagrams one by one, to the peer and back."""
    loop = asyncio.get_running_loop()
    for number in range(count):
        payload = b"number %d" % number
        ground.send(payload)
        async with asyncio.timeout(40.0):
            came, source = await loop.sock_recvfrom(ground.peer, 100)
        assert (came, source[:2]) == (payload, ground.relayed)
        ground.peer.sendto(payload, ground.relayed)
        assert await received(ground.client, 1) == [encode_channel_data(CHANNEL, payload, False)]


async def busy(ground: Ground) -> None:
    """So much is sent, within a second or a few, that there is one."""
    for _ in range(100):
        await exchange(ground, BUSY_DATAGRAMS)
        if sockets(ground):
            return
    raise AssertionError("there is none")


async def test_where_much_is_sent_one_is_opened_and_everything_comes_and_counts_as_before(
    ground: Ground,
) -> None:
    await exchange(ground, 1)
    assert sockets(ground) == 0
    await busy(ground)
    await exchange(ground, 50)
    assert sockets(ground) == 1
    assert ground.to_engine == []
    ground.routes.report()
    ground.passed.clear()
    await exchange(ground, 3)
    ground.routes.report()
    packets = {key: count.packets for key, count in ground.counts().items()}
    assert packets == {ground.out: 3, ground.back: 3}


async def test_many_at_once_come_whole_and_in_order_too(ground: Ground) -> None:
    await busy(ground)
    payloads = [bytes([number]) * (1 + number * 37 % 1200) for number in range(200)]
    ground.send(*payloads)
    assert await received(ground.peer, 200) == payloads
    for payload in payloads:
        ground.peer.sendto(payload, ground.relayed)
    assert await received(ground.client, 200) == [
        encode_channel_data(CHANNEL, payload, False) for payload in payloads
    ]


async def test_what_others_send_to_the_address_is_still_the_engine_s(ground: Ground) -> None:
    await busy(ground)
    ground.other.sendto(b"from elsewhere", ground.relayed)
    assert await heard(ground, 1) == [b"from elsewhere"]
    assert ground.to_engine[0].source == address_of(ground.other)
    assert ground.to_engine[0].destination == ground.relayed


async def test_what_came_before_it_was_connected_is_not_taken_for_the_peer_s(
    ground: Ground, monkeypatch
) -> None:
    def bind_and_hear(*arguments: Any, **options: Any) -> socket.socket:
        made = bind_socket(*arguments, **options)
        made.connect(ground.other.getsockname())
        ground.other.sendto(b"early", ground.relayed)  # comes by the new one
        return made

    monkeypatch.setattr(connected, "bind_socket", bind_and_hear)
    await busy(ground)
    assert await heard(ground, 1) == [b"early"]
    assert ground.to_engine[0].source == address_of(ground.other)
    await exchange(ground, 5)


async def test_after_a_while_all_that_comes_by_it_is_the_peer_s(ground: Ground) -> None:
    await busy(ground)
    route = ground.sockets[ground.server].route(address_of(ground.client), CHANNEL)
    assert route is not None
    ground.routes.connected.look_after({route.outlet})
    await exchange(ground, 20)
    ground.other.sendto(b"from elsewhere", ground.relayed)
    assert await heard(ground, 1) == [b"from elsewhere"]
    ground.routes.remove(ground.back)
    ground.peer.sendto(b"from the peer", ground.relayed)
    assert await heard(ground, 2) == [b"from elsewhere", b"from the peer"]
    assert ground.to_engine[1].source == address_of(ground.peer)


async def test_without_plenty_of_room_there_is_none(ground: Ground) -> None:
    ground.has_plenty = False
    for _ in range(5):
        await exchange(ground, BUSY_DATAGRAMS)
    assert sockets(ground) == 0


@pytest.mark.parametrize("reason", [errno.EMFILE, errno.ENETUNREACH])
async def test_where_there_is_none_now_it_goes_on_without_and_has_one_later(
    ground: Ground, monkeypatch, reason: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(reason, "not now, or not to this peer")

    monkeypatch.setattr(connected, "bind_socket", refuse)
    for _ in range(5):
        await exchange(ground, BUSY_DATAGRAMS)
    assert sockets(ground) == 0
    monkeypatch.undo()
    ground.routes.report()
    await busy(ground)


async def test_where_the_system_waits_for_no_more_sockets_none_is_left_open(
    ground: Ground, monkeypatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no more of them")

    monkeypatch.setattr(ground.routes._crowd, "add", refuse)
    gc.collect()  # what tests before have left must not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await exchange(ground, BUSY_DATAGRAMS)
        ground.routes.report()
    assert sockets(ground) == 0
    assert len(os.listdir("/proc/self/fd")) == before


async def test_one_that_rests_is_closed_and_one_that_is_used_is_not(ground: Ground) -> None:
    await busy(ground)
    ground.routes.report()
    await exchange(ground, 1)
    route = ground.sockets[ground.server].route(address_of(ground.client), CHANNEL)
    assert route is not None
    for _ in range(3 * IDLE_REPORTS):
        ground.routes.connected.look_after({route.outlet})
    assert sockets(ground) == 1
    for _ in range(IDLE_REPORTS):
        ground.routes.connected.look_after(())
    assert sockets(ground) == 0
    await exchange(ground, 5)


async def test_they_give_way_to_what_cannot_do_without_a_descriptor(ground: Ground) -> None:
    await busy(ground)
    ground.has_plenty = False
    ground.routes.connected.give_way()
    assert sockets(ground) == 0
    await exchange(ground, 5)
    assert ground.to_engine == []


async def test_it_is_closed_with_the_relayed_address(ground: Ground) -> None:
    await busy(ground)
    ground.sockets[ground.relayed].close()
    assert sockets(ground) == 0


async def test_without_a_route_nothing_passes_by_it_either(ground: Ground) -> None:
    await busy(ground)
    ground.routes.remove(ground.back)
    ground.routes.remove(ground.out)
    ground.peer.sendto(b"late", ground.relayed)
    assert await heard(ground, 1) == [b"late"]
    ground.send(b"late too")
    assert await heard(ground, 2) == [b"late", encode_channel_data(CHANNEL, b"late too", False)]


async def test_what_the_network_says_of_what_it_sent_is_told(ground: Ground) -> None:
    await busy(ground)
    peer = address_of(ground.peer)
    ground.peer.close()
    ground.send(b"nobody is there")
    await until(lambda: bool(ground.errors))
    assert ground.errors[0].destination == peer

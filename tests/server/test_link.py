"""The link between the two processes, both ends in one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from knothole.server.link import (
    MAX_PACKET,
    Ask,
    Change,
    Link,
    MappedSeen,
    Message,
    RelayReady,
    RelaySettings,
    TakeTurn,
    TooLarge,
    link_pair,
)
from knothole.server.relay_link import ProcessRelay, RelayGone
from knothole.server.revocation import MOST_BYTES, owners_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")


class End:
    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.sockets: list[socket.socket] = []
        self.closed = False
        self.link = Link(sock, self._message, self._closed)

    def _message(self, message: Message, handed: socket.socket | None) -> None:
        self.messages.append(message)
        if handed is not None:
            self.sockets.append(handed)

    def _closed(self) -> None:
        self.closed = True


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    first, second = map(End, link_pair())
    yield first, second
    for end in (first, second):
        end.link.close()
        for sock in end.sockets:
            sock.close()


async def test_messages_arrive_in_order_in_both_directions(ends, until) -> None:
    first, second = ends
    assert first.link.send(MappedSeen("1:a", "1.2.3.4", 5))
    assert first.link.send(RelayReady())
    assert second.link.send(RelayReady())
    await until(lambda: len(second.messages) == 2 and len(first.messages) == 1)
    assert second.messages == [MappedSeen("1:a", "1.2.3.4", 5), RelayReady()]


async def test_a_socket_travels_and_lives_on_in_the_other_process_only(ends, until) -> None:
    first, second = ends
    ours, theirs = socket.socketpair()
    with ours:
        first.link.send(TakeTurn(("1.2.3.4", 5)), theirs)
        assert theirs.fileno() == -1
        await until(lambda: bool(second.sockets))
        [handed] = second.sockets
        assert not os.get_inheritable(handed.fileno())
        handed.send(b"hello")
        assert ours.recv(100) == b"hello"
        handed.close()
        assert ours.recv(100) == b""


async def test_what_the_other_end_cannot_take_yet_waits_and_is_not_lost(ends, until) -> None:
    first, second = ends
    sent = [MappedSeen(f"1:{number}", "1.2.3.4", 5) for number in range(1000)]
    for message in sent:  # more than the kernel holds, without a turn of the loop
        assert first.link.send(message)
    await until(lambda: len(second.messages) == len(sent))
    assert second.messages == sent


async def test_what_waits_is_bounded_and_sockets_that_find_no_place_are_closed(ends) -> None:
    first, _ = ends
    while first.link.send(MappedSeen("1:a", "1.2.3.4", 5)):
        pass
    ours, theirs = socket.socketpair()
    with ours:
        assert not first.link.send(TakeTurn(("1.2.3.4", 5)), theirs)
        assert ours.recv(100) == b""


async def test_the_end_of_one_process_is_known_to_the_other(ends, until) -> None:
    first, second = ends
    first.link.close()
    first.link.close()
    await until(lambda: second.closed)
    assert not first.closed
    assert not second.link.send(RelayReady())


def settings(revoked: list[str]) -> RelaySettings:
    return RelaySettings(
        secrets=["s"],
        revoked=revoked,
        allow_peers=[],
        deny_peers=[],
        allocations=1,
        allocations_per_user=1,
        chain="/a.pem",
        key="/a.key",
    )


@pytest.mark.parametrize("size", [1, 8, 500])
async def test_as_many_names_as_may_be_revoked_reach_the_relay(ends, until, size: int) -> None:
    first, second = ends
    names = [f"{number:0{size}}"[-size:] for number in range(MOST_BYTES // (size + 1))]
    change = Ask(1, Change(settings(owners_of(tuple(names)))))
    assert first.link.send(change)
    await until(lambda: bool(second.messages))
    assert second.messages == [change]


async def test_a_message_that_fits_no_packet_is_refused_and_not_sent_in_part(ends, until) -> None:
    first, second = ends
    with pytest.raises(TooLarge):
        first.link.send(Ask(1, Change(settings(["a" * MAX_PACKET]))))
    first.link.send(RelayReady())
    await until(lambda: bool(second.messages))
    assert second.messages == [RelayReady()]


async def test_a_relay_whose_settings_fit_no_packet_is_gone_and_not_waited_for() -> None:
    relay = ProcessRelay(lambda *_: None)
    relay.spawn()
    try:
        with pytest.raises(RelayGone, match="too many names"):
            await relay.start(settings(["a" * MAX_PACKET]))  # type: ignore[arg-type]
    finally:
        await relay.stop()

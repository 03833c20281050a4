"""The library as a program uses it: lines, streams, datagrams, errors, and clean ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

import knothole
from knothole.peer.accept import Taking
from knothole.peer.peer import Peer
from knothole.wire.candidate import CandidateKind

from ..ports import free_port


async def test_datagrams_and_streams_go_both_ways(server) -> None:
    async with Peer(server.profile("bob")) as bob, Peer(server.profile("alice")) as alice:
        line = await alice.connect("bob", timeout=20)
        other = await anext(bob.incoming())
        assert (other.peer_name, other.peer_key) == ("alice", alice.profile.identity.public_key)
        assert await line.secured() == await other.secured()
        line.send_datagram(b"a" * line.max_datagram_size)
        assert await other.receive_datagram() == b"a" * line.max_datagram_size
        stream = await line.open_stream()
        stream.write(b"question")
        await stream.drain()
        stream.write_eof()
        there = await other.accept_stream()
        assert await there.read() == b"question"
        there.write(b"answer")
        there.close()
        assert await stream.read() == b"answer"
        assert await line.ping() > 0.0


async def test_what_was_written_arrives_though_the_line_is_left_at_once(
    server, monkeypatch
) -> None:
    monkeypatch.setattr("knothole.peer.line.FLUSH_SECONDS", 60.0)  # a busy machine takes its time
    data = bytes(500_000)
    async with Peer(server.profile("bob")) as bob, Peer(server.profile("alice")) as alice:
        async with await alice.connect("bob") as line:
            stream = await line.open_stream()
            stream.write(data)
            stream.write_eof()
            other = await anext(bob.incoming())
            reading = asyncio.create_task((await other.accept_stream()).read())
        assert await reading == data
        assert "closed the line" in await other.wait_closed()


async def test_reader_gets_everything_though_the_writer_reads_no_more(server) -> None:
    async with Peer(server.profile("bob")) as bob, Peer(server.profile("alice")) as alice:
        line = await alice.connect("bob")
        stream = await line.open_stream()
        stream.write(b"more than will be read")
        there = await (await anext(bob.incoming())).accept_stream()
        assert await there.readexactly(4) == b"more"
        there.write(b"that is enough")
        there.close()
        assert await stream.read() == b"that is enough"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nobody", knothole.UnknownName),
        ("not a name", knothole.UnknownName),
        ("alice", knothole.UnknownName),
    ],
)
async def test_name_that_cannot_be_called_is_an_error_that_says_so(server, name, error) -> None:
    async with Peer(server.profile("alice")) as alice:
        with pytest.raises(error, match=name):
            await alice.connect(name)


async def test_offline_declined_and_busy_are_told_apart(server) -> None:
    async with Peer(server.profile("bob")):
        pass
    async with Peer(server.profile("alice")) as alice:
        with pytest.raises(knothole.PeerOffline):
            await alice.connect("bob")
        async with Peer(server.profile("carol"), accept="dave"):
            with pytest.raises(knothole.CallDeclined):
                await alice.connect("carol")
        async with Peer(server.profile("erin"), takes=lambda name, app: Taking.BUSY):
            with pytest.raises(knothole.PeerBusy):
                await alice.connect("erin")


async def test_decision_that_fails_takes_no_call_and_the_peer_goes_on(server) -> None:
    answers = iter([ZeroDivisionError(), Taking.YES])

    def decide(name: str, app: str) -> Taking:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Peer(server.profile("bob"), takes=decide), Peer(server.profile("alice")) as alice:
        with pytest.raises(knothole.CallDeclined):
            await alice.connect("bob")
        await alice.connect("bob")


async def test_changed_key_is_refused_until_it_is_forgotten(server) -> None:
    async with Peer(server.profile("bob")), Peer(server.profile("alice")) as alice:
        alice.profile.remember("bob", bytes(32))
        with pytest.raises(knothole.PeerKeyChanged, match="knothole contacts --forget bob"):
            await alice.connect("bob")
        knothole.peer.profile.Profile.load(alice.profile.folder).forget("bob")  # another program
        line = await alice.connect("bob")
        assert line.first_seen


async def test_refused_caller_is_told_to_the_one_who_was_called(server) -> None:
    async with Peer(server.profile("bob")) as bob, Peer(server.profile("alice")) as alice:
        bob.profile.remember("alice", bytes(32))
        with pytest.raises(knothole.PeerKeyChanged):
            await alice.connect("bob")
        refused = await anext(bob.refused_calls())
        assert refused.peer_name == "alice"
        assert "HAS CHANGED" in refused.text


async def test_contacts_only_takes_those_whose_key_is_remembered(server) -> None:
    bob_profile, alice_profile = server.profile("bob"), server.profile("alice")
    async with Peer(bob_profile, accept="contacts") as bob, Peer(alice_profile) as alice:
        with pytest.raises(knothole.CallDeclined):
            await alice.connect("bob")
        await (await bob.connect("alice")).secured()
        await alice.connect("bob")
    assert bob_profile.contacts()["alice"].keys is not None


async def test_cancelled_connect_leaves_no_line(server) -> None:
    async with (
        Peer(server.profile("bob"), ask=True) as bob,
        Peer(server.profile("alice")) as alice,
    ):
        connecting = asyncio.create_task(alice.ring("bob").answered())
        ring = await anext(bob.rings())
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        ring.decline()
        trying = asyncio.create_task(alice.connect("bob"))
        await asyncio.sleep(0)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying


async def test_leaving_ends_lines_streams_and_those_who_wait_for_them(server) -> None:
    async with Peer(server.profile("bob")) as bob:
        async with Peer(server.profile("alice")) as alice:
            line = await alice.connect("bob")
            other = await anext(bob.incoming())
            stream = await line.open_stream()
            stream.write(b"x")
            waiting = [
                asyncio.create_task(stream.read(1)),
                asyncio.create_task(line.receive_datagram()),
                asyncio.create_task(line.accept_stream()),
            ]
            await asyncio.sleep(0)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [knothole.LineClosed] * 3
        await other.wait_closed()
        with pytest.raises(knothole.LineClosed):
            line.send_datagram(b"too late")


async def test_leaving_that_is_cancelled_closes_every_socket_all_the_same(server) -> None:
    """Twice Ctrl-C. Tasks that are left are an error here too."""
    bob, alice = Peer(server.profile("bob")), Peer(server.profile("alice"), port=free_port())
    async with bob, alice:
        line = await alice.connect("bob")
        gathered = alice.endpoint.gatherer.candidates  # a relayed address is the server's socket
        bases = {e.base for e in gathered if e.candidate.kind is not CandidateKind.RELAYED}
        leaving = asyncio.create_task(alice.__aexit__())
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert line.closed
        assert bases
        for base in bases:
            family = socket.AF_INET6 if base.is_ipv6 else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as again:
                again.bind(base)


async def test_peer_is_entered_once(server) -> None:
    peer = Peer(server.profile("alice"))
    async with peer:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        await peer.__aenter__()


async def test_server_that_is_away_is_an_error_with_its_address(server) -> None:
    profile = server.profile("alice")
    await server.stop()
    with pytest.raises(knothole.ServerUnreachable, match=str(server.port)):
        async with Peer(profile, timeout=1.0):
            pass

"""The way that payload takes: at once over whatever there is, soon the best, through failures."""

from __future__ import annotations

import itertools

import pytest

from knothole.engine.connection import PATH_ZERO_BYTES
from knothole.engine.core import Datagram
from knothole.engine.endpoint.events import (
    CallOver,
    LineEvent,
    LinePath,
    LineSilent,
    Offline,
    Online,
)
from knothole.engine.secure.events import StreamData
from knothole.lab.sim import Egress, Link
from knothole.lab.sim.trace import Action
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import CandidateKind
from knothole.wire.signal import messages as signal

ONE_WAY = 0.01  # between each client and the server; 0.02 between the clients


def acquainted(town, *, boxes=("linux", "linux"), **options):
    """Alice and Bob, who know each other and are online."""
    alice = town.resident("alice", boxes[0], **options)
    bob = town.resident("bob", boxes[1])
    alice.knows(bob)
    bob.knows(alice)
    town.settle()
    return alice, bob


def talk(town, who, call_id: bytes, every: float = 0.02) -> None:
    """Send a datagram every so often, as long as the line is there."""

    def say() -> None:
        if who.program.stopped or who.over(call_id) is not None:
            return
        who.send(call_id)
        town.world.after(every, say)

    say()


def kinds(who) -> list[CandidateKind]:
    return [each.candidate.kind for each in who.endpoint.gatherer.candidates]


def longest_silence(who, call_id: bytes, since: float, until: float) -> float:
    times = [at for at in who.payload_times(call_id) if since < at < until]
    return max(b - a for a, b in itertools.pairwise([since, *times, until]))


@pytest.mark.parametrize("boxes", [("linux", "linux"), ("random", "random"), ("none", "range")])
def test_first_payload_of_each_side_is_there_within_three_one_way_trips(town, boxes) -> None:
    """Issue 2, "to be shown", 2: the callee's goes in half a round trip, the caller's follows."""
    alice, bob = acquainted(town, boxes=boxes)
    alice.on_line = lambda ready: alice.send(ready.call_id, b"from alice")
    bob.on_line = lambda ready: bob.send(ready.call_id, b"from bob")
    began = town.world.now
    call_id = alice.call("bob")
    town.run(0.2)
    assert alice.received(call_id) == [b"from bob"]
    assert bob.received(call_id) == [b"from alice"]
    (first_at_alice,), (first_at_bob,) = alice.payload_times(call_id), bob.payload_times(call_id)
    assert first_at_alice - began <= 4 * ONE_WAY + 0.001
    assert first_at_bob - began <= 6 * ONE_WAY + 0.001


def test_callees_first_payload_leaves_before_the_caller_has_proven_itself(town) -> None:
    alice, bob = acquainted(town)
    bob.on_line = lambda ready: bob.send(ready.call_id, b"half a round trip")
    call_id = alice.call("bob")
    town.run(2 * ONE_WAY + 0.001)
    assert bob.lines() == [call_id]
    assert not bob.is_secured(call_id)
    town.run(2 * ONE_WAY)
    assert alice.received(call_id) == [b"half a round trip"]


def test_path_zero_carries_a_little_and_no_more(towns) -> None:
    """No relay and NATs that never meet: only the signalling is left."""
    town = towns()
    town.downwards = lambda name, m: (
        (signal.Registered(m.session_id, m.observed, (), ()),)
        if isinstance(m, signal.Registered)
        else (m,)
    )
    alice, bob = acquainted(town, boxes=("random", "random"))
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.is_secured(call_id)
    assert bob.is_secured(call_id)
    assert alice.path(call_id) == bob.path(call_id) == "none"
    alice.send(call_id, b"a little")
    town.run(0.5)
    assert bob.received(call_id) == [b"a little"]
    channel = alice.connection(call_id).channel
    channel.write(channel.open_stream(), bytes(4 * PATH_ZERO_BYTES))
    alice.do(lambda endpoint, now: endpoint.flush(call_id, now))
    town.run(20.0)
    early = town.messages(signal.Early, "alice")
    carried = sum(len(datagram) for m in early for datagram in m.datagrams)
    assert PATH_ZERO_BYTES / 2 < carried <= PATH_ZERO_BYTES + 12 * 1200
    town.run(60.0)
    texts = sorted(who.over(call_id).text for who in (alice, bob))
    assert texts[0].startswith("No path to ")
    assert texts[1].startswith("No path to ") or texts[1].endswith(" hung up")


def test_stream_that_begins_on_the_relay_arrives_whole_after_the_change_to_direct(town) -> None:
    """Nothing goes from client to client for a second."""
    alice, bob = acquainted(town)
    data = bytes(range(256)) * 2000
    town.passes = town.only_by_server
    call_id = alice.call("bob")
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "relayed", within=1.0)
    channel = alice.connection(call_id).channel
    stream = channel.open_stream()
    sent = 0
    while sent < len(data):
        channel.write(stream, data[sent : sent + 4096], end=sent + 4096 >= len(data))
        alice.do(lambda endpoint, now: endpoint.flush(call_id, now))
        sent += 4096
        town.run(0.02)
        if sent == 40 * 4096:
            town.passes = lambda packet: True
    assert town.until(lambda: len(bob.stream(call_id)) == len(data), within=5.0)
    assert bob.stream(call_id) == data
    assert alice.path(call_id) == bob.path(call_id) == "direct"
    kinds = [e.path.relayed for e in alice.events(LinePath) if e.path is not None]
    assert kinds[0] is True
    assert kinds[-1] is False


def test_stream_goes_on_over_the_relay_when_the_direct_path_breaks(town) -> None:
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "direct", within=1.0)
    town.run(1.0)
    data = bytes(range(256)) * 2000
    channel = alice.connection(call_id).channel
    stream = channel.open_stream()
    for start in range(0, len(data), 4096):
        channel.write(stream, data[start : start + 4096], end=start + 4096 >= len(data))
        alice.do(lambda endpoint, now: endpoint.flush(call_id, now))
        town.run(0.02)
        if start == 40 * 4096:
            town.passes = town.only_by_server
    assert town.until(lambda: len(bob.stream(call_id)) == len(data), within=5.0)
    assert bob.stream(call_id) == data
    assert alice.path(call_id) == bob.path(call_id) == "relayed"


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_what_was_said_last_is_there_when_a_line_ends_that_was_flushed(towns, loss: float) -> None:
    """Also while the path changes, from the signalling to the relay to a direct one."""
    for seed in range(12):
        town = towns(seed, line=Link(ONE_WAY, loss=loss))
        alice, bob = town.resident("alice"), town.resident("bob")
        town.settle(6.0)
        call_id = alice.call("bob")
        assert town.until(lambda a=alice, c=call_id: a.is_secured(c), within=10.0)
        channel = alice.connection(call_id).channel
        stream = channel.open_stream()
        for data, end in ((b"hello", False), (b"", True)):
            channel.write(stream, data, end=end)
            alice.do(lambda endpoint, now, c=call_id: endpoint.flush(c, now))
            town.run(0.002 * seed)
        assert town.until(lambda channel=channel: channel.is_flushed, within=20.0)
        alice.hang_up(call_id)
        assert town.until(lambda b=bob, c=call_id: b.over(c) is not None, within=60.0)
        ends = [
            event.event.end
            for event in bob.events(LineEvent)
            if isinstance(event.event, StreamData)
        ]
        assert bob.stream(call_id) == b"hello"
        assert ends[-1], f"seed {seed}"


def test_idle_line_asks_nothing_but_consent(town) -> None:
    """An acknowledgement has no answer: an idle path is not suspect because of it."""
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(10.0)
    began = town.world.now
    town.run(60.0)
    sent = [
        entry
        for entry in town.world.trace
        if entry.at > began
        and entry.action is Action.SEND
        and entry.node in ("alice1", "bob2")
        and entry.packet.transport is Transport.UDP
    ]
    assert alice.path(call_id) == bob.path(call_id) == "direct"
    # Each end: a keepalive every 12 s, consent every 5 s and of spare pairs every 12 s, answers
    # to the other's, a ping every 10 s.
    assert len(sent) < 60 * 2 * 1.5


@pytest.mark.parametrize("seconds", [3.0, 12.0, 29.0])
def test_line_outlives_an_outage_and_goes_on_within_a_second_and_a_half(
    town, seconds: float
) -> None:
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    for who in (alice, bob):
        talk(town, who, call_id)
    town.run(2.0)
    town.passes = lambda packet: False
    town.run(seconds)
    town.passes = lambda packet: True
    began = town.world.now
    town.run(10.0)
    for who in (alice, bob):
        assert who.over(call_id) is None
        assert min(at for at in who.payload_times(call_id) if at > began) - began < 1.5


def test_stream_data_sent_during_an_outage_arrives_soon_after_it(town) -> None:
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    town.passes = lambda packet: False
    channel = alice.connection(call_id).channel
    channel.write(channel.open_stream(), b"said meanwhile", end=True)
    alice.do(lambda endpoint, now: endpoint.flush(call_id, now))
    town.run(25.0)
    town.passes = lambda packet: True
    assert town.until(lambda: bob.stream(call_id) == b"said meanwhile", within=1.5)


@pytest.mark.parametrize("talking", [True, False])
def test_other_end_that_dies_is_noticed_after_forty_seconds(town, talking: bool) -> None:
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    if talking:
        talk(town, alice, call_id)
    town.run(2.0)
    bob.program.stop()
    began = town.world.now
    assert town.until(lambda: alice.over(call_id) is not None, within=60.0)
    assert 34.0 < town.world.now - began <= 40.1  # what was heard last was at most a ping ago
    assert alice.over(call_id).text == "bob is gone: nothing was heard any more"
    assert alice.over(call_id).fault is None


def test_farewell_that_is_lost_is_said_again(town) -> None:
    """The switchboard is away, too: only the line itself can say that it is over."""
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    talk(town, alice, call_id)
    town.server.stop()
    town.run(1.0)
    town.passes = lambda packet: packet.source.host != "2.2.2.2"
    bob.hang_up(call_id, "good night")
    town.run(0.5)
    assert alice.over(call_id) is None
    town.passes = lambda packet: True
    town.run(0.2)
    assert alice.over(call_id).text == "bob closed the line: good night"


def test_router_restart_is_recovered_in_less_than_a_second(town) -> None:
    """Issue 3, section 4."""
    alice, bob = acquainted(town)
    for name in ("alice", "bob"):
        call_id = alice.call("bob")
        town.run(2.0)
        for who in (alice, bob):
            talk(town, who, call_id)
        town.run(3.0)
        began = town.world.now
        town.routers[name].reboot(external=[f"7.7.7.{len(name)}"])
        town.run(8.0)
        for who in (alice, bob):
            assert longest_silence(who, call_id, began, began + 8.0) < 1.0, (name, who.name)
            assert who.path(call_id) == "direct"
        alice.hang_up(call_id)
        town.run(5.0)


@pytest.mark.parametrize("restarted", ["alice", "bob"])
def test_router_restart_is_recovered_when_payload_goes_one_way_only(town, restarted: str) -> None:
    """Who only receives sends nothing that could be missed."""
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    talk(town, bob, call_id)
    town.run(3.0)
    began = town.world.now
    town.routers[restarted].reboot(external=["7.7.7.7"])
    town.run(8.0)
    assert longest_silence(alice, call_id, began, began + 8.0) < 1.0
    assert alice.path(call_id) == bob.path(call_id) == "direct"


def test_mapping_change_gets_a_new_allocation_that_is_told(town) -> None:
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    before = {c.candidate.address for c in alice.endpoint.gatherer.candidates}
    town.routers["alice"].reboot(external=["7.7.7.7"])
    town.run(20.0)
    after = {c.candidate.address for c in alice.endpoint.gatherer.candidates}
    relayed = {address for address in after - before if address.host == "9.9.9.9"}
    assert len(relayed) == 1
    assert any(address.host == "7.7.7.7" for address in after)
    assert town.messages(signal.Trickle, "alice")
    assert town.messages(signal.OnFile, "alice")
    town.passes = town.only_by_server
    town.run(8.0)
    assert alice.path(call_id) == bob.path(call_id) == "relayed"


def test_restart_of_the_switchboard_does_not_hurt_a_direct_line(town) -> None:
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    for who in (alice, bob):
        talk(town, who, call_id)
    town.run(1.0)
    began = town.world.now
    town.server.stop()
    town.run(2.0)
    assert alice.events(Offline)
    assert bob.events(Offline)
    town.start_server()
    town.run(5.0)
    assert len(alice.events(Online)) == len(bob.events(Online)) == 2
    town.run(10.0)
    for who in (alice, bob):
        assert longest_silence(who, call_id, began, town.world.now) < 0.1
        assert not who.events(CallOver)
    again = alice.call("bob")
    town.run(0.5)
    assert alice.is_secured(again)


def test_candidates_are_told_again_after_registering_again(town) -> None:
    """What was trickled while the signalling was dying may be lost."""
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    town.passes = lambda packet: packet.transport is Transport.UDP
    town.run(1.0)
    town.routers["alice"].reboot(external=["7.7.7.7"])
    town.run(3.0)
    town.passes = lambda packet: True
    town.run(15.0)
    assert any("7.7.7.7" in str(e.path.remote) for e in bob.events(LinePath) if e.path is not None)
    assert [m for m in town.messages(signal.Trickle, "alice") if m.call_id == call_id]
    assert alice.path(call_id) == bob.path(call_id) == "direct"


def test_trickle_to_somebody_who_is_away_is_said_again(town) -> None:
    alice, _ = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    blocked = [True]
    town.passes = lambda packet: (
        not (
            blocked[0]
            and packet.transport is not Transport.UDP
            and "2.2.2.2" in (packet.source.host, packet.destination.host)
        )
    )
    town.run(70.0)  # the switchboard has noticed that Bob's connection is dead
    town.routers["alice"].reboot(external=["7.7.7.7"])
    town.run(15.0)
    before = len([m for name, m in town.told if name == "bob" and isinstance(m, signal.Trickle)])
    blocked[0] = False
    town.run(15.0)
    after = len([m for name, m in town.told if name == "bob" and isinstance(m, signal.Trickle)])
    assert after > before
    assert alice.path(call_id) == "direct"


@pytest.mark.parametrize("both", [False, True])
def test_blocked_udp_takes_a_stream_to_the_relay(town, both: bool) -> None:
    closed = Egress(udp=False, tcp_ports=frozenset({443}))
    alice = town.resident("alice", egress=closed)
    bob = town.resident("bob", egress=closed if both else None)
    alice.knows(bob)
    town.settle()
    began = town.world.now
    bob.on_line = lambda ready: bob.send(ready.call_id, b"from bob")
    alice.on_line = lambda ready: alice.send(ready.call_id, b"from alice")
    call_id = alice.call("bob")
    assert town.until(lambda: bob.received(call_id) and alice.received(call_id), within=0.5)
    assert town.world.now - began < 0.15
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "relayed", within=2.0)
    assert not alice.endpoint.gatherer.udp_works


def test_stream_to_the_relay_is_given_up_when_udp_is_back_and_nobody_needs_it(town) -> None:
    alice, _ = acquainted(town, egress=Egress(udp=False, tcp_ports=frozenset({443})))
    assert kinds(alice).count(CandidateKind.RELAYED) == 1
    call_id = alice.call("bob")
    town.run(2.0)
    assert alice.path(call_id) == "relayed"
    town.routers["alice"].egress = Egress()
    town.run(60.0)
    assert alice.endpoint.gatherer.udp_works
    assert alice.path(call_id) == "direct"
    assert kinds(alice).count(CandidateKind.RELAYED) == 2
    alice.hang_up(call_id)
    town.run(1.0)
    assert kinds(alice).count(CandidateKind.RELAYED) == 1


def test_several_lines_of_two_people_share_a_path_and_keep_apart(town) -> None:
    """One 5-tuple, and bursts with datagrams of both: connection IDs tell (RFC 9000, 5.1)."""
    alice, bob = acquainted(town)
    calls = [alice.call("bob"), alice.call("bob"), bob.call("alice")]
    town.run(1.0)
    assert len({alice.connection(call_id).path.remote for call_id in calls}) == 1
    data = {call_id: bytes([n]) * 100_000 for n, call_id in enumerate(calls)}
    for call_id in calls:
        channel = alice.connection(call_id).channel
        channel.write(channel.open_stream(), data[call_id], end=True)
        alice.do(lambda endpoint, now, call_id=call_id: endpoint.flush(call_id, now))
    town.run(3.0)
    for call_id in calls:
        assert bob.stream(call_id) == data[call_id]
    alice.hang_up(calls[0])
    town.run(1.0)
    assert bob.over(calls[0]) is not None
    for call_id in calls[1:]:
        alice.send(call_id, b"goes on")
    town.run(0.2)
    assert [bob.received(call_id) for call_id in calls[1:]] == [[b"goes on"]] * 2


def test_burst_with_datagrams_of_two_lines_is_taken_apart(town) -> None:
    alice, bob = acquainted(town)
    calls = [alice.call("bob"), alice.call("bob")]
    town.run(1.0)
    now = town.world.now
    payloads = []
    for call_id in calls * 3:
        channel = alice.connection(call_id).channel
        channel.send_datagram(bytes(900))
        payloads += channel.datagrams(now)
    assert {len(payload) for payload in payloads} == {len(payloads[0])}
    path = alice.connection(calls[0]).path
    source = next(
        c.candidate.address
        for c in alice.endpoint.gatherer.candidates
        if c.candidate.kind is CandidateKind.SERVER_REFLEXIVE
    )
    burst = Datagram(source, Address("10.0.2.2", 5000), b"".join(payloads), len(payloads[0]))
    assert path.remote.host == "2.2.2.2"
    bob.do(lambda endpoint, now: endpoint.receive(burst, now))
    assert [len(bob.received(call_id)) for call_id in calls] == [3, 3]


@pytest.mark.parametrize("talking", [True, False])
def test_other_end_that_dies_is_called_silent_after_ten_seconds(town, talking: bool) -> None:
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    if talking:
        talk(town, alice, call_id)
    town.run(2.0)
    bob.program.stop()
    began = town.world.now
    assert town.until(lambda: bool(alice.events(LineSilent)), within=20.0)
    assert 4.0 < town.world.now - began <= 10.1  # what was heard last was at most a check ago
    assert alice.events(LineSilent) == [LineSilent(call_id, True)]
    assert alice.over(call_id) is None


def test_silence_that_ends_is_told_too(town) -> None:
    alice, bob = acquainted(town)
    alice.call("bob")
    town.run(2.0)
    town.passes = lambda packet: False
    town.run(15.0)
    town.passes = lambda packet: True
    town.run(5.0)
    for who in (alice, bob):
        assert [event.silent for event in who.events(LineSilent)] == [True, False]


def test_idle_line_is_not_silent(town) -> None:
    alice, bob = acquainted(town)
    alice.call("bob")
    town.run(120.0)
    assert not alice.events(LineSilent)
    assert not bob.events(LineSilent)


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_line_that_has_outlived_the_switchboard_outlives_a_router_too(town, name: str) -> None:
    """A new switchboard knows nothing of the call: candidates go over the line itself."""
    alice, bob = acquainted(town)
    call_id = alice.call("bob")
    town.run(2.0)
    for who in (alice, bob):
        talk(town, who, call_id)
    town.run(1.0)
    town.server.stop()
    town.run(2.0)
    town.start_server()
    town.run(15.0)
    relayed = {
        each.candidate.address
        for each in bob.endpoint.gatherer.candidates
        if each.candidate.kind is CandidateKind.RELAYED
    }
    known = {each.address for each in alice.connection(call_id).ice.remote_candidates}
    assert relayed
    assert relayed <= known
    town.routers[name].reboot(external=["7.7.7.7"])
    began = town.world.now
    town.run(8.0)
    for who in (alice, bob):
        assert longest_silence(who, call_id, began, began + 8.0) < 1.5
        assert who.path(call_id) == "direct"

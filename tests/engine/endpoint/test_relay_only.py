"""Relay-only: the other side learns no address of ours, neither told nor by a packet."""

from __future__ import annotations

import pytest

from knothole.engine.connection import Connection
from knothole.engine.endpoint.history import PathUsed, RelayOnly
from knothole.wire.candidate import CandidateKind
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import NOBODY, Audience, AudienceKind

ALICES = ("1.1.1.1", "10.0.1.2")


class Hidden:
    """Relay-only towards everybody, or towards ``names``."""

    def __init__(self, *names: str) -> None:
        self._names = names

    @property
    def nothing_on_file(self) -> bool:
        return not self._names

    def relay_only(self, name: str, incoming: bool) -> bool:
        return not self._names or name in self._names


def met(town) -> bool:
    """Whether any packet went between the public addresses of the first two residents."""
    ends = {f"{n}.{n}.{n}.{n}" for n in (1, 2)}
    return any(
        {entry.packet.source.host, entry.packet.destination.host} == ends
        for entry in town.world.trace
    )


def remote_hosts(connection: Connection) -> set[str]:
    return {each.address.host for each in connection.ice.remote_candidates}


BOXES = [("linux", "linux"), ("none", "none"), ("random", "rfc4787"), ("sequential", "linux")]


@pytest.mark.parametrize("pair", BOXES)
@pytest.mark.parametrize("caller", ["alice", "bob"])
def test_the_line_is_relayed_and_no_packet_goes_between_the_two(
    town, pair: tuple[str, str], caller: str
) -> None:
    disclosure = {"disclosure": NOBODY} if caller == "bob" else {}
    alice = town.resident("alice", pair[0], discretion=Hidden(), **disclosure)
    bob = town.resident("bob", pair[1])
    town.settle()
    who, other = (alice, "bob") if caller == "alice" else (bob, "alice")
    call_id = who.call(other)
    town.run(3.0)
    alice.send(call_id, b"from alice")
    bob.send(call_id, b"from bob")
    town.run(10.0)
    assert bob.received(call_id) == [b"from alice"]
    assert alice.received(call_id) == [b"from bob"]
    assert (alice.path(call_id), bob.path(call_id)) == ("relayed", "relayed")
    assert not met(town)
    assert remote_hosts(bob.connection(call_id)) == {"9.9.9.9"}
    history = alice.endpoint.history(call_id, town.world.now)
    assert history is not None
    assert history.steps[0].step == RelayOnly(ours=True)
    assert {each.kind for each in history.ours} == {"relay"}
    assert all(step.step.relayed for step in history.steps if isinstance(step.step, PathUsed))


def test_nothing_is_on_file_and_the_server_vouches_for_no_address(town) -> None:
    alice = town.resident("alice", discretion=Hidden())
    bob = town.resident("bob")
    town.settle()
    assert not any(message.candidates for message in town.messages(signal.OnFile, "alice"))
    assert any(message.candidates for message in town.messages(signal.OnFile, "bob"))
    alice.call("bob")
    town.run(2.0)
    bob.call("alice")
    town.run(2.0)
    told = [message for name, message in town.told if name == "bob"]
    assert any(isinstance(message, signal.Incoming) for message in told)
    assert any(isinstance(message, signal.Answered) for message in told)
    assert not any(
        getattr(message, "observed", ())
        for message in told[1:]
        if not isinstance(message, signal.Registered)
    )


def test_the_mapped_address_behind_a_relayed_one_is_not_told(town) -> None:
    """RFC 8839 Section 5.1."""
    alice, bob = town.resident("alice", discretion=Hidden()), town.resident("bob")
    town.settle()
    call_id = alice.call("bob")
    town.run(1.0)
    (relayed,) = bob.connection(call_id).ice.remote_candidates
    assert relayed.kind is CandidateKind.RELAYED
    assert relayed.related == ("0.0.0.0", 9)


def test_also_after_changes_of_network_nothing_else_is_told(town) -> None:
    alice, bob = town.resident("alice", discretion=Hidden()), town.resident("bob")
    town.settle()
    call_id = alice.call("bob")
    town.run(2.0)
    town.routers["alice"].reboot(external=["1.1.1.99"])
    town.run(20.0)
    assert bob.path(call_id) == "relayed"
    assert remote_hosts(bob.connection(call_id)) == {"9.9.9.9"}
    assert not any(
        "1.1.1.99" in (entry.packet.source.host, entry.packet.destination.host)
        and entry.node.startswith("bob")
        for entry in town.world.trace
    )


def test_a_policy_for_one_contact_leaves_the_others_direct(town) -> None:
    carols = Audience(AudienceKind.NAMES, ("carol",))
    alice = town.resident("alice", discretion=Hidden("bob"), disclosure=carols)
    bob, carol = town.resident("bob"), town.resident("carol")
    town.settle()
    to_bob, to_carol = alice.call("bob"), alice.call("carol")
    from_bob = bob.call("alice")
    town.run(3.0)
    assert alice.path(to_bob) == alice.path(from_bob) == "relayed"
    assert alice.path(to_carol) == carol.path(to_carol) == "direct"
    assert not met(town)

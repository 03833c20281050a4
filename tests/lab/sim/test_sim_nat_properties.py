"""What holds for every NAT, whatever its knobs, against a model that only reads the history."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from knothole.lab.sim import (
    Collision,
    Dependence,
    Drop,
    FilterScope,
    Nat,
    NatBehaviour,
    Neighbours,
    Offset,
    Packet,
    Pooling,
    Preservation,
    RandomPorts,
    Sequential,
    Sharing,
)
from knothole.wire.address import Address

INTERNAL = [Address(f"10.0.0.{host}", 5000) for host in (2, 3, 4)] + [Address("10.0.0.2", 5001)]
PEERS = [Address(f"192.0.2.{host}", port) for host in (1, 2) for port in (3478, 3479)]
EXTERNAL = ("203.0.113.1", "203.0.113.2")
NOBODY = (Address(EXTERNAL[0], 5000), PEERS[0])
LIFETIME = 30.0

ports = st.sampled_from(
    [
        Preservation(RandomPorts()),
        Preservation(Sequential(5000, 5020)),
        Offset(60000, otherwise=RandomPorts(2000, 2011)),
        Sequential(5000, 5011),
        Sequential(30001, 30040, stride=3),
        RandomPorts(2000, 2019),
    ]
)
exclusive = st.builds(
    NatBehaviour,
    mapping=st.sampled_from(Dependence),
    filtering=st.sampled_from(Dependence),
    filter_scope=st.sampled_from(FilterScope),
    ports=ports,
    collision=st.sampled_from([Collision.OTHER_PORT, Collision.OTHER_ADDRESS]),
    pooling=st.sampled_from(Pooling),
    keep_parity=st.booleans(),
    keep_contiguity=st.booleans(),
    lifetime_seconds=st.just(LIFETIME),
    filter_lifetime_seconds=st.sampled_from([None, 10.0, 50.0]),
    outbound_refresh=st.booleans(),
    inbound_refresh=st.booleans(),
)
linux_like = st.builds(
    NatBehaviour,
    mapping=st.just(Dependence.ADDRESS_AND_PORT_DEPENDENT),
    filtering=st.just(Dependence.ADDRESS_AND_PORT_DEPENDENT),
    filter_scope=st.just(FilterScope.MAPPING),
    ports=ports,
    sharing=st.just(Sharing.PER_PEER),
    reuse_newest=st.booleans(),
    lifetime_seconds=st.just(LIFETIME),
    inbound_refresh=st.booleans(),
    keeps_strangers=st.booleans(),
)
# Whole and half seconds are exact in binary, so a moment can hit the end of a lifetime exactly.
pauses = st.sampled_from([0.0, 0.5, 9.5, 10.0, 20.0, 29.5, LIFETIME])
steps = st.lists(
    st.tuples(
        st.sampled_from(["out", "reply", "in"]),
        pauses,
        st.integers(0, len(INTERNAL) - 1),
        st.integers(0, len(PEERS) - 1),
    ),
    min_size=25,
    max_size=50,
)


@dataclass
class Line:
    """A mapping as the history tells it: whose it is, and every moment that prolonged it."""

    internal: Address
    external: Address
    key: tuple[object, ...]
    refreshed: list[float]
    peers: dict[tuple[object, ...], list[float]] = field(default_factory=dict)

    def alive(self, now: float) -> bool:
        return now < self.refreshed[-1] + LIFETIME


class History:
    """The model: it keeps all lines that ever were and searches them."""

    def __init__(self, behaviour: NatBehaviour) -> None:
        self.behaviour = behaviour
        self.lines: list[Line] = []

    def line(self, internal: Address, peer: Address, now: float) -> Line | None:
        key = self.behaviour.mapping.key(peer)
        found = [
            line
            for line in self.lines
            if line.internal == internal and line.key == key and line.alive(now)
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def went_out(self, internal: Address, peer: Address, external: Address, now: float) -> None:
        line = self.line(internal, peer, now)
        if line is None:
            line = Line(internal, external, self.behaviour.mapping.key(peer), [now])
            self.lines.append(line)
        elif self.behaviour.outbound_refresh:
            line.refreshed.append(now)
        line.peers.setdefault(self.behaviour.filtering.key(peer), []).append(now)

    def receiver(self, peer: Address, external: Address, now: float) -> Line | None:
        """The line by which a packet comes in, None if it must not."""
        for line in reversed(self.lines):
            if line.external == external and line.alive(now) and self.permits(line, peer, now):
                return line
        return None

    def permits(self, line: Line, peer: Address, now: float) -> bool:
        behaviour = self.behaviour
        if behaviour.filtering is Dependence.ENDPOINT_INDEPENDENT:
            return True
        family = [line]
        if behaviour.filter_scope is FilterScope.INTERNAL_ENDPOINT:
            family = self.unbroken(line)
        sent = [at for one in family for at in one.peers.get(behaviour.filtering.key(peer), ())]
        lifetime = behaviour.filter_lifetime_seconds
        return bool(sent) and (lifetime is None or now < max(sent) + lifetime)

    def unbroken(self, line: Line) -> list[Line]:
        """All lines of the internal endpoint back to when it last had no living one."""
        own = [one for one in self.lines if one.internal == line.internal]
        family: list[Line] = []
        covered = float("inf")
        for one in reversed(own):
            if any(later.refreshed[0] < one.refreshed[-1] + LIFETIME for later in family) or (
                covered == float("inf")
            ):
                family.append(one)
                covered = one.refreshed[0]
        return family

    def came_in(self, line: Line, peer: Address, now: float) -> None:
        if self.behaviour.inbound_refresh:
            line.refreshed.append(now)
            line.peers.setdefault(self.behaviour.filtering.key(peer), []).append(now)


def play(behaviour: NatBehaviour, script: list[tuple[str, float, int, int]]) -> None:
    """Run a script through a NAT and compare every single answer with the history's."""
    nat = Nat(behaviour, EXTERNAL, rng=Random(1))
    history = History(behaviour)
    seen: list[tuple[Address, Address]] = []
    now = 0.0
    for kind, pause, internal_index, peer_index in script:
        now += pause
        internal, peer = INTERNAL[internal_index], PEERS[peer_index]
        if kind == "out":
            expected = history.line(internal, peer, now)
            packet = nat.outbound(Packet(internal, peer), now)
            if isinstance(packet, Drop):
                assert packet is Drop.NO_PORT and expected is None
                continue
            external = packet.source
            assert expected is None or external == expected.external
            history.went_out(internal, peer, external, now)
            seen.append((external, peer))
            assert nat.inbound(Packet(peer, external), now) == Packet(peer, internal)
            line = history.receiver(peer, external, now)
            assert line is not None
            history.came_in(line, peer, now)
        else:
            external, asked = seen[-1 - internal_index % len(seen)] if seen else NOBODY
            peer = asked if kind == "reply" else peer
            line = history.receiver(peer, external, now)
            result = nat.inbound(Packet(peer, external), now)
            if line is None:
                assert isinstance(result, Drop)
            else:
                assert result == Packet(peer, line.internal)
                history.came_in(line, peer, now)
        living = nat.mappings(now)
        assert sorted((m.internal, m.external) for m in living) == sorted(
            (line.internal, line.external) for line in history.lines if line.alive(now)
        )
        peers = behaviour.sharing is Sharing.PER_PEER
        ends = [(m.external, m.peer if peers else None) for m in living]
        assert len(set(ends)) == len(ends), "two mappings on one external endpoint"


@settings(max_examples=400, derandomize=True, deadline=None)
@given(exclusive, steps)
def test_nat_does_what_its_history_says(
    behaviour: NatBehaviour, script: list[tuple[str, float, int, int]]
) -> None:
    play(behaviour, script)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(linux_like, steps)
def test_nat_that_shares_ports_per_peer_does_what_its_history_says(
    behaviour: NatBehaviour, script: list[tuple[str, float, int, int]]
) -> None:
    play(behaviour, script)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(exclusive, st.integers(0, 1000), st.floats(0.1, 5.0))
def test_neighbours_never_take_a_port_that_is_used(
    behaviour: NatBehaviour, seed: int, per_second: float
) -> None:
    neighbours = Neighbours(per_second, hold_seconds=20.0)
    nat = Nat(behaviour, EXTERNAL, rng=Random(seed), neighbours=neighbours)
    for now in range(0, 60, 7):
        nat.outbound(Packet(INTERNAL[now % len(INTERNAL)], PEERS[now % len(PEERS)]), float(now))
        ends = [mapping.external for mapping in nat.mappings(float(now))]
        assert len(set(ends)) == len(ends)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(exclusive, steps)
def test_same_seed_gives_the_same_ports(
    behaviour: NatBehaviour, script: list[tuple[str, float, int, int]]
) -> None:
    seen = []
    for _ in range(2):
        nat, now = Nat(behaviour, EXTERNAL, rng=Random(7)), 0.0
        results = []
        for _, pause, internal, peer in script:
            now += pause
            results.append(nat.outbound(Packet(INTERNAL[internal], PEERS[peer]), now))
        seen.append(results)
    assert seen[0] == seen[1]

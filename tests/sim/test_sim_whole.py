"""The whole program in virtual time: endpoints, switchboard, relay, NATs, encryption and all."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import (
    CallOver,
    IncomingCall,
    LineEvent,
    LineReady,
    Offline,
    Online,
)
from knothole.engine.rendezvous.accounts import MemoryAccounts
from knothole.engine.secure.events import DatagramReceived
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.pins import KnownPeer
from knothole.engine.turn.server_events import AllocationCreated, AllocationEnded
from knothole.lab.sim import (
    BEHAVIOURS,
    Egress,
    Firewall,
    Link,
    NatBehaviour,
    Program,
    Realm,
    Router,
    World,
)
from knothole.lab.sim.phone import Phone, run_phone
from knothole.lab.sim.switchboard import CREDENTIAL_SECONDS, TLS_PORT, run_switchboard
from knothole.wire.address import Address
from knothole.wire.signal.values import ANYONE

NAMES = ("none", "firewall", "linux", "range", "sequential", "random")
PAIRS = list(itertools.combinations_with_replacement(NAMES, 2))
VARYING = ("sequential", "random")
SERVER = "9.9.9.9"
GOOD = Link(0.01)
LOSSY = Link(0.03, loss=1 - 0.95**0.5)


def known_peer(name: str, identity: Identity) -> KnownPeer:
    keys = identity.keys(name)
    return KnownPeer(SERVER, name, keys.public_key, 0, keys.sealing_key, keys.sealing_signature)


class Line:
    """One end of the line: its program, what has come through, and when."""

    def __init__(self, call: Call, name: str, program: Program[Phone]) -> None:
        self.call, self.name, self.program = call, name, program
        self.call_id: bytes | None = None
        self.times: list[float] = []

    def heard(self, event: object, now: float) -> None:
        match event:
            case IncomingCall(call_id):
                self.do(lambda endpoint, now: endpoint.accept(call_id, now))
            case LineReady(call_id):
                self.call_id = call_id
                self.talk()
            case LineEvent(_, DatagramReceived()):
                self.times.append(now - self.call.called_at)

    def do(self, command) -> object:
        return self.program.call(
            lambda phone, now: phone.command(lambda endpoint: command(endpoint, now), now)
        )

    def talk(self) -> None:
        """Send a datagram now and every so often, as long as the line is there."""
        connection = self.program.engine.endpoint.connection(self.call_id)
        if connection is None or connection.closed or self.program.stopped:
            return
        connection.channel.send_datagram(b"payload")
        self.do(lambda endpoint, now: endpoint.flush(self.call_id, now))
        self.call.world.after(self.call.every, self.talk)

    @property
    def path(self) -> str:
        connection = self.program.engine.endpoint.connection(self.call_id)
        path = None if connection is None else connection.path
        return "none" if path is None else "relayed" if path.relayed else "direct"

    def longest_silence(self, since: float, until: float) -> float:
        times = [at for at in self.times if since < at < until]
        return max(b - a for a, b in itertools.pairwise([since, *times, until]))


class Call:
    """Alice and Bob, each behind a box, registered, and Alice calls Bob."""

    def __init__(
        self,
        seed: int,
        boxes: tuple[str | NatBehaviour, ...],
        line: Link,
        *,
        blocked: int = 0,
        every: float = 0.02,
        credential_seconds: int = CREDENTIAL_SECONDS,
    ) -> None:
        self.credential_seconds = credential_seconds
        self.world, self.every, self.called_at = World(seed), every, 0.0
        self.accounts = MemoryAccounts()
        self.server_host = self.world.host("server", SERVER)
        self.start_server()
        self.routers: dict[str, Router] = {}
        self.ends: list[Line] = []
        names = ("alice", "bob")
        random = self.world.random_bytes("identities")
        identities = {name: Identity.generate(random) for name in names}
        for number, (name, box) in enumerate(zip(names, boxes, strict=True), 1):
            egress = Egress(udp=False, tcp_ports=frozenset({443})) if number <= blocked else None
            realm, host = self._behind(name, box, number, line, egress)
            known = {
                other: known_peer(other, identities[other]) for other in names if other != name
            }
            endpoint = Endpoint(
                identity=identities[name],
                name=name,
                known=known,
                random=self.world.random_bytes(name),
                disclosure=ANYONE,
            )
            machine = self.world.host(name)
            machine.attach(realm, host, link=line if box == "none" else None)
            program = run_phone(
                machine,
                endpoint,
                [Address(host, 5000)],
                Address(SERVER, TLS_PORT),
                now=self.world.now,
                on_event=lambda _, event, now, number=number: self._heard(number, event, now),
            )
            self.ends.append(Line(self, name, program))
        self.world.run(8.0)
        assert all(end.program.count(Online) for end in self.ends)

    def start_server(self) -> None:
        self.server = run_switchboard(
            self.server_host,
            SERVER,
            accounts=self.accounts,
            random=self.world.random_bytes("server"),
            now=self.world.now,
            credential_seconds=self.credential_seconds,
        )

    def _behind(
        self, name: str, box: str | NatBehaviour, number: int, line: Link, egress: Egress | None
    ) -> tuple[Realm, str]:
        public = ".".join(4 * [str(number)])
        if box == "none":
            return self.world.internet, public
        nat = None if box == "firewall" else BEHAVIOURS[box] if isinstance(box, str) else box
        self.routers[name] = self.world.router(
            f"{name}-router",
            nat=nat,
            external=() if nat is None else [public],
            firewall=Firewall() if nat is None else None,
            egress=egress,
            link=line,
        )
        return self.routers[name].inside, public if nat is None else f"10.0.{number}.2"

    def _heard(self, number: int, event: object, now: float) -> None:
        if len(self.ends) >= number:
            self.ends[number - 1].heard(event, now)

    def place(self) -> Call:
        self.called_at = self.world.now
        self.ends[0].do(lambda endpoint, now: endpoint.call("bob", "line", "", now))
        return self

    def connected(self, within: float) -> bool:
        """Let time pass until payload, decrypted and authenticated, is at both ends."""
        return self._until(lambda: all(end.times for end in self.ends), within)

    def all_on(self, path: str, within: float) -> bool:
        return self._until(lambda: all(end.path == path for end in self.ends), within)

    def _until(self, condition, within: float) -> bool:
        left = self.called_at + within - self.world.now
        return condition() or self.world.run_until(condition, limit_seconds=left)

    @property
    def now(self) -> float:
        """Seconds since the call."""
        return self.world.now - self.called_at


def expected_path(pair: tuple[str, str]) -> str:
    """Direct but for a varying mapping against a filter by address and port (the oracle's rule)."""
    relayed = any(
        one in VARYING and other != "none" for one, other in itertools.permutations(pair, 2)
    )
    return "relayed" if relayed else "direct"


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_first_payload_is_there_after_three_one_way_trips(pair: tuple[str, str]) -> None:
    """Issue 2, "to be shown", 2: 10 ms one way per client; at most 0.12 s, 0.06 s the aim."""
    call = Call(1, pair, GOOD).place()
    assert call.connected(within=0.0601)
    assert call.all_on(expected_path(pair), within=0.5)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_pair_connects_within_two_seconds_at_5_percent_loss(pair: tuple[str, str]) -> None:
    """Issue 2, "to be shown", 3."""
    for seed in range(2):
        call = Call(seed * 100 + PAIRS.index(pair), pair, LOSSY).place()
        assert call.connected(within=2.0), seed
        if expected_path(pair) == "direct":
            assert call.all_on("direct", within=2.0), seed


@pytest.mark.parametrize("seed", range(100, 112))
def test_any_two_nats_connect_in_time_and_stay_connected(scenes, seed: int) -> None:
    rng = Random(seed)
    call = Call(seed, (scenes.random_nat(rng), scenes.random_nat(rng)), LOSSY).place()
    assert call.connected(within=2.0)
    call.world.run(20.0)
    for end in call.ends:
        assert end.longest_silence(2.0, 20.0) < 1.0


@pytest.mark.parametrize("blocked", [1, 2], ids=["one end", "both ends"])
def test_blocked_udp_is_relayed_over_tls(blocked: int) -> None:
    call = Call(3, ("linux", "linux"), LOSSY, blocked=blocked).place()
    assert call.connected(within=2.0)
    assert call.all_on("relayed", within=3.0)
    call.world.run(20.0)
    for end in call.ends:
        assert end.longest_silence(3.0, 20.0) < 1.5


@pytest.mark.parametrize("pair", [("linux", "linux"), ("random", "random")], ids="-".join)
def test_long_line_has_no_gap(pair: tuple[str, str]) -> None:
    call = Call(4, pair, GOOD, every=0.5).place()
    call.world.trace.enabled = False
    call.world.run(700.0)
    for end in call.ends:
        assert end.longest_silence(1.0, 700.0) < 0.6


def test_a_relayed_line_outlives_the_credentials_that_it_began_with() -> None:
    call = Call(6, ("random", "random"), GOOD, every=0.5, credential_seconds=700).place()
    call.world.trace.enabled = False
    assert call.all_on("relayed", within=3.0)
    allocations = call.server.count(AllocationCreated)
    call.world.run(2200.0)
    assert call.server.count(AllocationCreated) == allocations
    assert call.server.count(AllocationEnded) == 0
    assert all(end.path == "relayed" for end in call.ends)
    for end in call.ends:
        assert end.longest_silence(3.0, 2200.0) < 0.6


def test_server_killed_and_restarted_is_not_noticed_on_a_direct_line() -> None:
    """Issue 2, "to be shown", 6: registered clients are back within 5 s."""
    call = Call(5, ("linux", "linux"), GOOD).place()
    assert call.all_on("direct", within=2.0)
    call.world.run(3.0)
    start = call.now
    call.server.stop()
    call.world.run(2.0)
    assert all(end.program.count(Offline) for end in call.ends)
    before = [end.program.count(Online) for end in call.ends]
    call.start_server()
    call.world.run(5.0)
    assert [end.program.count(Online) for end in call.ends] == [count + 1 for count in before]
    call.world.run(10.0)
    for end in call.ends:
        assert end.longest_silence(start, start + 15.0) < 0.1


@pytest.mark.parametrize("renumbered", [False, True], ids=["same address", "other address"])
@pytest.mark.parametrize(
    "pair", [("linux", "linux"), ("random", "random"), ("range", "firewall")], ids="-".join
)
@pytest.mark.parametrize("restarted", ["alice", "bob"])
def test_line_goes_on_three_seconds_after_a_router_restart(
    pair: tuple[str, str], renumbered: bool, restarted: str
) -> None:
    """Issue 2, "to be shown", 6. A firewall has no address that could change."""
    call = Call(6, pair, GOOD).place()
    assert call.connected(within=1.0)
    call.world.run(10.0)
    start = call.now
    call.routers[restarted].reboot(external=["1.1.1.99"] if renumbered else None)
    call.world.run(20.0)
    for end in call.ends:
        assert end.longest_silence(start, start + 20.0) < 3.0, end.name


def test_line_survives_the_move_from_wifi_to_mobile() -> None:
    call = Call(7, ("linux", "linux"), GOOD).place()
    assert call.all_on("direct", within=2.0)
    call.world.run(5.0)
    start, alice = call.now, call.ends[0]
    carrier = call.world.router("mobile", nat=BEHAVIOURS["random"], external=["7.7.7.7"], link=GOOD)
    new = Address("100.64.0.2", 5000)
    alice.program.host.attach(carrier.inside, new.host)
    alice.program.bind(new)
    alice.program.host.detach("10.0.1.2")
    alice.program.call(lambda phone, now: phone.move(new.host, [new], now))
    call.world.run(20.0)
    for end in call.ends:
        assert end.longest_silence(start, start + 20.0) < 3.0, end.name


def test_other_side_that_dies_is_noticed() -> None:
    call = Call(8, ("linux", "linux"), GOOD).place()
    assert call.all_on("direct", within=2.0)
    call.world.run(3.0)
    call.ends[1].program.stop()
    call.world.run(60.0)
    assert call.ends[0].program.count(CallOver) == 1

"""One call of the whole program in virtual time, judged by what arrives at the two hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import IncomingCall, LineEvent, LineReady, Online
from knothole.engine.endpoint.history import CallHistory
from knothole.engine.rendezvous.accounts import MemoryAccounts
from knothole.engine.secure.events import DatagramReceived
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.pins import KnownPeer
from knothole.lab.sim.behaviour import NatBehaviour
from knothole.lab.sim.host import Program
from knothole.lab.sim.link import Link
from knothole.lab.sim.phone import Phone, run_phone
from knothole.lab.sim.places import Place, place
from knothole.lab.sim.switchboard import (
    CREDENTIAL_SECONDS,
    DISCOVERY_PORT,
    TLS_PORT,
    UDP_PORT,
    run_switchboard,
)
from knothole.lab.sim.trace import Action, TraceEntry
from knothole.lab.sim.world import World
from knothole.wire.address import Address, Transport
from knothole.wire.signal.values import ANYONE
from knothole.wire.stun import looks_like_stun

NAMES: Final = ("alice", "bob")
SERVER: Final = "3.3.3.3"
OTHER_SERVER: Final = "3.3.3.4"
CARRIER_NUMBER: Final = 7
FIRST_PORT: Final = 5000
_NUMBERS: Final = {"alice": 1, "bob": 2}
_LONG_HEADER: Final = 0x80  # RFC 9000 Section 17.2: packets of a handshake


@dataclass(frozen=True, slots=True)
class Scenario:
    """Two clients by what they stand behind, each with a line of its own to the internet.

    ``carrier`` puts both behind one more NAT of that kind (a word as for the others), ``same_nat``
    both behind the first one's. TURN credentials are good for ``credential_seconds``.
    """

    seed: int
    nats: tuple[str | NatBehaviour, str | NatBehaviour]
    links: tuple[Link, Link] = (Link(0.01), Link(0.01))
    carrier: str | None = None
    same_nat: bool = False
    every_seconds: float = 0.05
    credential_seconds: int = CREDENTIAL_SECONDS


@dataclass(slots=True)
class Arrivals:
    """When payload came to one host, since the call and by the way it came."""

    direct: list[float] = field(default_factory=list)
    relayed: list[float] = field(default_factory=list)


class WholeCall:
    """Alice and Bob, registered at the server; then Alice calls Bob, and both send payload."""

    def __init__(self, scenario: Scenario, *, settle_seconds: float = 8.0) -> None:
        """Lets ``settle_seconds`` pass for registration and discovery. Raises TimeoutError when a
        client is not online by then."""
        self.scenario = scenario
        self.world = World(scenario.seed)
        self.world.trace.enabled = False
        self.world.trace.listeners.append(self._seen)
        self.called_at = 0.0
        self.arrivals = {name: Arrivals() for name in NAMES}
        self.delivered = dict.fromkeys(NAMES, 0)
        server = self.world.host("server", SERVER, OTHER_SERVER)
        run_switchboard(
            server,
            SERVER,
            accounts=MemoryAccounts(),
            random=self.world.random_bytes("server"),
            now=self.world.now,
            other=OTHER_SERVER,
            credential_seconds=scenario.credential_seconds,
        )
        self.places = self._places()
        random = self.world.random_bytes("identities")
        identities = {name: Identity.generate(random) for name in NAMES}
        self.phones = {name: self._phone(name, identities) for name in NAMES}
        self.call_ids: dict[str, bytes] = {}
        self.world.run(settle_seconds)
        for name, phone in self.phones.items():
            if not phone.count(Online):
                raise TimeoutError(f"{name} is not online after {settle_seconds:g} s")

    def place(self) -> WholeCall:
        """Alice calls Bob now."""
        self.called_at = self.world.now
        self._command("alice", lambda endpoint, now: endpoint.call("bob", "line", "", now))
        return self

    def run_until(self, condition: Callable[[], bool], within: float) -> bool:
        """Let time pass until a condition holds, at most until ``within`` seconds of the call."""
        left = self.called_at + within - self.world.now
        return condition() or self.world.run_until(condition, limit_seconds=left)

    def connected(self, within: float) -> bool:
        """Let time pass until payload, decrypted and authenticated, is at both ends."""
        return self.run_until(lambda: all(self.delivered.values()), within)

    def direct(self, within: float) -> bool:
        """Let time pass until payload has come to both ends by a direct path."""
        arrivals = self.arrivals.values()
        return self.run_until(lambda: all(each.direct for each in arrivals), within)

    def last_path(self) -> str:
        """The way by which the newest payload came to both: direct, relayed, mixed or none."""
        ways = set()
        for each in self.arrivals.values():
            if not each.direct and not each.relayed:
                return "none"
            newest = [times[-1] if times else -1.0 for times in (each.direct, each.relayed)]
            ways.add("direct" if newest[0] > newest[1] else "relayed")
        return ways.pop() if len(ways) == 1 else "mixed"

    def history(self, name: str) -> CallHistory | None:
        """What one end has noted of the call."""
        call_id = self.call_ids.get(name)
        endpoint = self.phones[name].engine.endpoint
        return None if call_id is None else endpoint.history(call_id, self.world.now)

    def _places(self) -> dict[str, Place]:
        scenario, world = self.scenario, self.world
        servers = [
            Address(host, port)
            for host in (SERVER, OTHER_SERVER)
            for port in (UDP_PORT, DISCOVERY_PORT)
        ]
        carrier = None
        if scenario.carrier is not None:
            carrier = place(world, "isp", CARRIER_NUMBER, scenario.carrier, link=Link())
        places: dict[str, Place] = {}
        for name, nat, link in zip(NAMES, scenario.nats, scenario.links, strict=True):
            if scenario.same_nat and places:
                places[name] = places["alice"].beside()
            else:
                places[name] = place(
                    world, name, _NUMBERS[name], nat, link=link, carrier=carrier, servers=servers
                )
        return places

    def _phone(self, name: str, identities: dict[str, Identity]) -> Program[Phone]:
        here = self.places[name]
        keys = {each: identity.keys(each) for each, identity in identities.items()}
        known = {
            each: KnownPeer(SERVER, each, key.public_key, 0, key.sealing_key, key.sealing_signature)
            for each, key in keys.items()
            if each != name
        }
        endpoint = Endpoint(
            identity=identities[name],
            name=name,
            known=known,
            random=self.world.random_bytes(name),
            disclosure=ANYONE,
        )
        machine = self.world.host(name)
        machine.attach(here.realm, here.host, link=here.link)
        return run_phone(
            machine,
            endpoint,
            [Address(here.host, FIRST_PORT)],
            Address(SERVER, TLS_PORT),
            now=self.world.now,
            on_event=lambda _, event, now: self._heard(name, event),
        )

    def _heard(self, name: str, event: object) -> None:
        match event:
            case IncomingCall(call_id):
                self._command(name, lambda endpoint, now: endpoint.accept(call_id, now))
            case LineReady(call_id):
                self.call_ids[name] = call_id
                self._talk(name)
            case LineEvent(_, DatagramReceived()):
                self.delivered[name] += 1

    def _talk(self, name: str) -> None:
        """Send a datagram now and every so often, as long as the line is there."""
        call_id = self.call_ids[name]
        connection = self.phones[name].engine.endpoint.connection(call_id)
        if connection is None or connection.closed:
            return
        connection.channel.send_datagram(b"payload")
        self._command(name, lambda endpoint, now: endpoint.flush(call_id, now))
        self.world.after(self.scenario.every_seconds, lambda: self._talk(name))

    def _command(self, name: str, command: Callable[[Endpoint, float], object]) -> None:
        self.phones[name].call(
            lambda phone, now: phone.command(lambda endpoint: command(endpoint, now), now)
        )

    def _seen(self, entry: TraceEntry) -> None:
        """Payload on its last step: from a server it was relayed."""
        if entry.action is not Action.DELIVER or entry.node not in self.arrivals:
            return
        packet, arrivals = entry.packet, self.arrivals[entry.node]
        if packet.source.host in (SERVER, OTHER_SERVER):
            if packet.source.port == UDP_PORT or packet.transport is not Transport.UDP:
                arrivals.relayed.append(entry.at - self.called_at)
        elif _is_payload(packet.payload):
            arrivals.direct.append(entry.at - self.called_at)


def _is_payload(data: bytes) -> bool:
    """Whether a packet between peers is more than a check or a handshake."""
    return bool(data) and not looks_like_stun(data) and not data[0] & _LONG_HEADER

"""Two whole clients behind NATs of one's choice, and a server: one call between them, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import IncomingCall, LineReady
from knothole.engine.predict.budget import Budget
from knothole.engine.rendezvous.accounts import MemoryAccounts
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.pins import KnownPeer
from knothole.lab.sim.behaviour import NatBehaviour
from knothole.lab.sim.firewall import Firewall
from knothole.lab.sim.host import Program
from knothole.lab.sim.link import Link
from knothole.lab.sim.nat import Neighbours
from knothole.lab.sim.network import Realm, Router
from knothole.lab.sim.phone import Phone, run_phone
from knothole.lab.sim.switchboard import TLS_PORT, run_switchboard
from knothole.lab.sim.trace import Action, TraceEntry
from knothole.lab.sim.world import World
from knothole.wire.address import Address
from knothole.wire.nat import NatReport
from knothole.wire.signal.values import ANYONE
from knothole.wire.stun import looks_like_stun

SERVER: Final = "9.9.9.9"
OTHER: Final = "9.9.9.10"  # the server's second address, for NAT discovery
REGISTER_SECONDS: Final = 5.0  # ours: until both are online, and know what their NATs do


@dataclass(frozen=True, slots=True)
class Side:
    """One end: its NAT (None: a firewall that does not translate), what is to be believed of it in
    place of what is found out, who else takes ports of it, and what plans may use."""

    nat: NatBehaviour | None
    report: NatReport | None = None
    neighbours: Neighbours | None = None
    budget: Budget | None = None


class Pair:
    """Alice at 1.1.1.1 and Bob at 2.2.2.2, registered; :meth:`call` lets Alice call Bob."""

    def __init__(self, seed: int, sides: tuple[Side, Side], line: Link = Link(0.01)) -> None:  # noqa: B008
        self.world = World(seed)
        self.world.trace.enabled = False
        self.called_at = 0.0
        self.ids: dict[str, bytes] = {}
        self.routers: dict[str, Router] = {}
        self.programs: dict[str, Program[Phone]] = {}
        self.server = run_switchboard(
            self.world.host("server", SERVER, OTHER),
            SERVER,
            other=OTHER,
            accounts=MemoryAccounts(),
            random=self.world.random_bytes("server"),
            now=self.world.now,
        )
        random = self.world.random_bytes("identities")
        identities = {name: Identity.generate(random) for name in ("alice", "bob")}
        for number, (name, side) in enumerate(zip(identities, sides, strict=True), 1):
            others = {other: key for other, key in identities.items() if other != name}
            self._start(name, number, side, identities[name], others, line)
        self.world.run(REGISTER_SECONDS)
        self.know([side.report for side in sides])

    def endpoint(self, name: str) -> Endpoint:
        return self.programs[name].engine.endpoint

    def know(self, reports: Sequence[NatReport | None]) -> None:
        """Let Alice and Bob know this of their NATs, whatever they found out themselves."""
        for name, report in zip(self.programs, reports, strict=True):
            if report is not None:
                endpoint = self.endpoint(name)
                endpoint.discovery.report = endpoint.way_out.report = report

    def call(self) -> None:
        """Alice calls Bob, who takes it."""
        self.called_at = self.world.now
        self.ids["alice"] = self.programs["alice"].call(
            lambda phone, now: phone.command(
                lambda endpoint: endpoint.call("bob", "line", "", now), now
            )
        )

    def path(self, name: str) -> str:
        """How payload of this end travels: "none", "relayed" or "direct"."""
        call_id = self.ids.get(name)
        connection = None if call_id is None else self.endpoint(name).connection(call_id)
        path = None if connection is None else connection.path
        return "none" if path is None else "relayed" if path.relayed else "direct"

    def direct_within(self, seconds: float) -> float | None:
        """Let time pass until both ends send directly; when that was, in seconds from the call."""
        self.world.run_until(
            lambda: all(self.path(name) == "direct" for name in self.programs),
            limit_seconds=self.called_at + seconds - self.world.now,
        )
        direct = all(self.path(name) == "direct" for name in self.programs)
        return self.world.now - self.called_at if direct else None

    def _start(
        self,
        name: str,
        number: int,
        side: Side,
        identity: Identity,
        others: dict[str, Identity],
        line: Link,
    ) -> None:
        public = ".".join(4 * [str(number)])
        realm, host = self._behind(name, public, side, line)
        endpoint = Endpoint(
            identity=identity,
            name=name,
            known={other: _known(other, key) for other, key in others.items()},
            random=self.world.random_bytes(name),
            disclosure=ANYONE,
            budget=side.budget,
        )
        machine = self.world.host(name)
        machine.attach(realm, host)

        def heard(program: Program[Phone], event: object, now: float) -> None:
            match event:
                case IncomingCall(call_id):
                    self.ids[name] = call_id
                    program.call(
                        lambda phone, now: phone.command(
                            lambda endpoint: endpoint.accept(call_id, now), now
                        )
                    )
                case LineReady(call_id):
                    self.ids[name] = call_id

        self.programs[name] = run_phone(
            machine,
            endpoint,
            [Address(host, 5000)],
            Address(SERVER, TLS_PORT),
            now=self.world.now,
            on_event=heard,
        )

    def _behind(self, name: str, public: str, side: Side, line: Link) -> tuple[Realm, str]:
        router = self.routers[name] = self.world.router(
            f"{name}-router",
            nat=side.nat,
            external=() if side.nat is None else [public],
            firewall=Firewall() if side.nat is None else None,
            neighbours=side.neighbours,
            link=line,
        )
        number = public.partition(".")[0]
        return router.inside, public if side.nat is None else f"10.0.{number}.2"


class StunCounter:
    """How many STUN packets were sent by whom to which address, by the world's own trace."""

    def __init__(self, pair: Pair) -> None:
        self.sent: dict[tuple[str, Address], int] = {}
        pair.world.trace.listeners.append(self._see)

    def to_host(self, host: str) -> int:
        """All STUN packets to this IP address."""
        return sum(count for (_, to), count in self.sent.items() if to.host == host)

    def _see(self, entry: TraceEntry) -> None:
        if entry.action is Action.SEND and looks_like_stun(entry.packet.payload):
            ends = entry.node, entry.packet.destination
            self.sent[ends] = self.sent.get(ends, 0) + 1


def _known(name: str, identity: Identity) -> KnownPeer:
    keys = identity.keys(name)
    return KnownPeer(SERVER, name, keys.public_key, 0, keys.sealing_key, keys.sealing_signature)

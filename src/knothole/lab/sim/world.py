"""A world in virtual time: everything in it, and the calls that let time pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from knothole.engine.core import RandomBytes
from knothole.lab.sim.behaviour import NatBehaviour
from knothole.lab.sim.fabric import Appointment, BrokenPromise, Fabric
from knothole.lab.sim.firewall import Firewall
from knothole.lab.sim.host import Host, Program
from knothole.lab.sim.link import Link
from knothole.lab.sim.nat import Nat, Neighbours
from knothole.lab.sim.network import Egress, Realm, Router
from knothole.lab.sim.trace import Trace

__all__ = ["BrokenPromise", "World"]


class World:
    """Hosts, realms and routers, driven strictly and in virtual time.

    ``seed`` decides everything that chance decides; ``start`` is the first ``now`` (seconds).
    The same seed and the same calls give the same trace. Engines may be given commands between
    two calls, inside ``at`` and ``after``, and by ``Program.call``.
    """

    def __init__(self, seed: int = 0, *, start: float = 0.0) -> None:
        self._fabric = Fabric(seed, start)
        self.internet = Realm("internet", self._fabric)
        self.hosts: list[Host] = []
        self.routers: list[Router] = []

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._fabric.clock.now

    @property
    def trace(self) -> Trace:
        """Everything that has happened to packets."""
        return self._fabric.trace

    def rng(self, name: str) -> Random:
        """The source of chance with this name."""
        return self._fabric.rng(name)

    def random_bytes(self, name: str) -> RandomBytes:
        """A seeded source of bytes, for the engine with this name."""
        return self._fabric.rng(name).randbytes

    def realm(self, name: str) -> Realm:
        """A further address space with no way out of it."""
        return Realm(name, self._fabric)

    def host(
        self,
        name: str,
        *addresses: str,
        realm: Realm | None = None,
        link: Link | None = None,
        down: Link | None = None,
    ) -> Host:
        """A host with these addresses in a realm (the internet), at the end of a line.

        More interfaces come by ``Host.attach``. Raises ValueError for an address that is taken.
        """
        host = Host(name, self._fabric)
        if addresses:
            host.attach(self.internet if realm is None else realm, *addresses, link=link, down=down)
        self.hosts.append(host)
        return host

    def router(
        self,
        name: str,
        *,
        nat: NatBehaviour | None = None,
        external: Sequence[str] = (),
        firewall: Firewall | None = None,
        outside: Realm | None = None,
        egress: Egress | None = None,
        link: Link | None = None,
        inside_link: Link | None = None,
        neighbours: Neighbours | None = None,
    ) -> Router:
        """A router whose ``inside`` is a new realm: hosts and further routers attach to it.

        ``nat`` translates to the ``external`` addresses, ``firewall`` guards the families that
        are not translated, ``egress`` says what may leave at all; ``link`` is the line to the
        realm ``outside`` (the internet), ``inside_link`` the one into its own realm.
        """
        translator = None
        if nat is not None:
            rng = self.rng(f"nat/{name}")
            translator = Nat(nat, external, rng=rng, neighbours=neighbours, now=self.now)
        router = Router(
            name,
            self._fabric,
            self.internet if outside is None else outside,
            nat=translator,
            firewall=firewall,
            egress=Egress() if egress is None else egress,
            link=Link() if link is None else link,
            inside_link=Link() if inside_link is None else inside_link,
        )
        self.routers.append(router)
        return router

    def at(self, when: float, action: Callable[[], object]) -> Appointment:
        """Do something at a moment; it may give commands to any engine."""

        def act() -> None:
            action()
            self._poll()

        return self._fabric.clock.at(when, act)

    def after(self, seconds: float, action: Callable[[], object]) -> Appointment:
        """Do something a while from now; simulated signalling is made of this."""
        return self.at(self.now + seconds, action)

    def next_event_time(self) -> float | None:
        """When something will happen next, None if nothing will: what to wait for in real time."""
        self._poll()
        return self._fabric.clock.next_time()

    def step(self, until: float) -> None:
        """Let everything happen up to and including ``until``, which is ``now`` afterwards.

        Raises BrokenPromise when an engine breaks the contract.
        """
        clock = self._fabric.clock
        self._poll()
        while (at := clock.next_time()) is not None and at <= until:
            clock.run_next()
        clock.now = max(clock.now, until)

    def run(self, seconds: float) -> None:
        """Let so many virtual seconds pass."""
        self.step(self.now + seconds)

    def run_until(self, condition: Callable[[], bool], *, limit_seconds: float) -> bool:
        """Let time pass until a condition holds, checked after every event; False at the limit."""
        clock = self._fabric.clock
        end = self.now + limit_seconds
        self._poll()
        while not condition():
            at = clock.next_time()
            if at is None or at > end:
                clock.now = end
                return False
            clock.run_next()
        return True

    def programs(self) -> list[Program[Any]]:
        """Every running engine, in the order in which they were started on their hosts."""
        return [program for host in self.hosts for program in host.programs]

    def _poll(self) -> None:
        for program in self.programs():
            program.poll()

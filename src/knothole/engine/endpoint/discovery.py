"""Finding out what our NAT does: in the background, at registration and at every change of network.

A survey over IPv4 from a handful of fresh sockets, and a small one over IPv6 for its firewall. Who
stays online for a while measures how long mappings live, too.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from msgspec import structs

from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit, least
from knothole.engine.endpoint.events import CloseSockets, NatLearned, OpenSockets
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.engine.stun.lifetime import IDLE_SECONDS, LifetimeLearned, LifetimeMeasurement
from knothole.engine.stun.survey import MAX_PACKETS, ROLES, BehaviourLearned, Survey
from knothole.wire.address import Address
from knothole.wire.nat import Dependence, NatReport

DISCOVERY: Final = b"discovery"
"""The owner of its sockets."""

SAMPLES: Final = 14  # ours: what MAX_PACKETS has room for, after filtering and mapping
IPV6_PACKETS: Final = 16  # ours: of MAX_PACKETS, what the survey over IPv6 can take
# Ours: half of the ports are low enough for a NAT that adds 30000, none is a known service's. From
# each of four ranges: by chance alone all ports may be an even number of 10000s apart, and such
# ports 30000 + p mod 10000 and 20000 + p mod 20000 map alike.
PORT_RANGES: Final = ((10240, 19999), (32768, 44999), (20000, 29999), (45000, 60999))
UDP_SECONDS: Final = 1.0  # ours: no standing mapped address by then, and the survey asks itself
SOCKETS_SECONDS: Final = 0.3  # ours: sockets that are not bound by then are done without
LIFETIME_AFTER_SECONDS: Final = 30.0  # ours: who stays that long may want to know of lifetimes
REST_SECONDS: Final = 30.0  # ours: between two surveys where mapped addresses come and go

DiscoveryOutput: TypeAlias = Transmit | OpenSockets | CloseSockets | NatLearned


class _Timer(enum.Enum):
    UDP = enum.auto()
    SOCKETS = enum.auto()
    REST = enum.auto()
    LIFETIME = enum.auto()


def fresh_ports(count: int, random: RandomBytes) -> tuple[int, ...]:
    """Port numbers without a pattern, from low and high ones in turn."""
    ranges = (PORT_RANGES[number % len(PORT_RANGES)] for number in range(count))
    return tuple(
        first + int.from_bytes(random(4), "big") % (last - first + 1) for first, last in ranges
    )


class NatDiscovery:
    """Keeps :attr:`report` (an :class:`~knothole.engine.core.Engine`).

    It is told which bases and STUN servers there are and what those see, and asks for sockets.
    """

    def __init__(self, random: RandomBytes) -> None:
        self.report: NatReport | None = None
        """What is known, None before the first survey on this network."""
        self.behaviour: NatBehaviour | None = None
        """The evidence for it."""
        self._random = random
        self._bases: tuple[Address, ...] = ()
        self._servers: tuple[Address, ...] = ()
        self._standing: frozenset[tuple[str, str]] = frozenset()
        self._surveyed: frozenset[tuple[str, str]] | None = None
        self._asked: dict[str, int] = {}  # host -> sockets that were asked for
        self._sockets: dict[str, list[Address]] = {}
        self._surveys: dict[str, Survey] = {}
        self._filtering_ipv6: Dependence | None = None
        self._measures: str | None = None  # the host that lifetimes are measured from
        self._measurement: LifetimeMeasurement | None = None
        self._lifetime_seconds: float | None = None
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[DiscoveryOutput] = deque()

    @property
    def complete(self) -> bool:
        """Whether the survey of this network has ended."""
        asked = any(host != self._measures for host in self._asked)
        return self.report is not None and not self._surveys and not asked

    # ------------------------------------------------------------------------ commands

    def set_bases(self, bases: Sequence[Address], now: float) -> None:
        """The standing sockets. When a local address has come or gone, all begins anew."""
        if {base.host for base in bases} != {base.host for base in self._bases}:
            self._stop()
            self.report = self.behaviour = self._surveyed = self._filtering_ipv6 = None
            self._lifetime_seconds = None
            self._standing = frozenset()
        self._bases = tuple(bases)
        self._wait(now)

    def set_servers(self, servers: Sequence[Address], now: float) -> None:
        """The STUN servers, the first of each family is asked most."""
        if set(servers) != set(self._servers):
            self._surveyed = None
        self._servers = tuple(servers)
        self._wait(now)

    def seen(self, mapped: Mapping[Address, Mapping[Address, Address]], now: float) -> None:
        """What the servers see the standing bases as: base -> server -> mapped address."""
        self._standing = frozenset(
            (base.host, address.host) for base, seen in mapped.items() for address in seen.values()
        )
        if any(":" not in host for host, _ in self._standing) and not self._timers.is_armed(
            _Timer.REST
        ):
            self._begin(now)

    def sockets_opened(self, bases: Sequence[Address], now: float) -> None:
        """Some of the sockets that OpenSockets asked for."""
        unwanted = tuple(base for base in bases if base.host not in self._asked)
        if unwanted:
            self._outputs.append(CloseSockets(unwanted))
        for base in bases:
            if base.host in self._asked:
                self._sockets.setdefault(base.host, []).append(base)
        for host, count in tuple(self._asked.items()):
            if len(self._sockets.get(host, ())) >= count:
                self._use_sockets(host, now)

    def socket_closed(self, base: Address, now: float) -> None:
        """A socket is gone, with the local address that it had."""
        self._surveys.pop(base.host, None)
        if base.host == self._measures:
            self._measures = self._measurement = None
        self._close(base.host)

    def close(self) -> None:
        """Stop; sockets are the driver's to close."""
        self._stop()
        self._bases = self._servers = ()

    # -------------------------------------------------------------------------- engine

    def knows(self, datagram: Datagram) -> bool:
        """Whether ``datagram`` has come to one of its sockets."""
        return datagram.destination in self._sockets.get(datagram.destination.host, ())

    def receive(self, datagram: Datagram, now: float) -> None:
        host = datagram.destination.host
        engine = self._measurement if host == self._measures else self._surveys.get(host)
        if engine is not None:
            engine.receive(datagram, now)
            self._drain(now)

    def handle_timeout(self, now: float) -> None:
        for survey in tuple(self._surveys.values()):
            timeout = survey.next_timeout()
            if timeout is not None and timeout <= now:
                survey.handle_timeout(now)
        measurement = self._measurement
        if measurement is not None and (measurement.next_timeout() or now + 1.0) <= now:
            measurement.handle_timeout(now)
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.LIFETIME:
                    self._measure(now)
                case _Timer.UDP:
                    self._begin(now)
                case _Timer.SOCKETS:
                    for host in tuple(self._asked):
                        self._use_sockets(host, now)
                case _Timer.REST:
                    if self._standing:
                        self._begin(now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        if not self._surveys and self._measurement is None:
            return self._timers.next()
        surveys = (survey.next_timeout() for survey in self._surveys.values())
        measurement = None if self._measurement is None else self._measurement.next_timeout()
        return least(self._timers.next(), measurement, *surveys)

    def outputs(self) -> Iterator[DiscoveryOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # -------------------------------------------------------------------------- inside

    def _wait(self, now: float) -> None:
        """Have a survey also where no server answers over UDP."""
        if self._bases and self._servers and self._surveyed is None and not self._asked:
            self._timers.arm(_Timer.UDP, now + UDP_SECONDS)

    def _begin(self, now: float) -> None:
        if self._surveyed == self._standing or self._asked or self._surveys:
            return
        self._end_measurement()
        self._surveyed = self._standing
        self._timers.clear()
        self._timers.arm(_Timer.SOCKETS, now + SOCKETS_SECONDS)
        reaching = {host for host, _ in self._standing}
        for ipv6, count in ((False, ROLES + SAMPLES), (True, ROLES)):
            family = [base.host for base in self._bases if base.is_ipv6 == ipv6]
            hosts = [host for host in family if host in reaching] or ([] if ipv6 else family)
            if hosts and any(server.is_ipv6 == ipv6 for server in self._servers):
                self._asked[hosts[0]] = count
                self._outputs.append(
                    OpenSockets(DISCOVERY, hosts[0], count, fresh_ports(count, self._random))
                )

    def _use_sockets(self, host: str, now: float) -> None:
        del self._asked[host]
        if host == self._measures:
            self._begin_measurement(host, now)
        else:
            self._survey(host, now)

    def _survey(self, host: str, now: float) -> None:
        bases = self._sockets.get(host, [])
        servers = [server for server in self._servers if server.is_ipv6 == (":" in host)]
        if len(bases) < ROLES or not servers:
            self._close(host)
            return
        both = len(self._asked) + len(self._surveys) > 0
        budget = MAX_PACKETS - IPV6_PACKETS if both and ":" not in host else MAX_PACKETS
        self._surveys[host] = Survey(
            bases, servers, random=self._random, now=now, max_packets=budget
        )
        self._timers.arm(_Timer.REST, now + REST_SECONDS)
        self._drain(now)

    def _measure(self, now: float) -> None:
        """Have lifetimes measured, where there is something that forgets."""
        behaviour = self.behaviour
        if behaviour is None or behaviour.filtering is Dependence.ENDPOINT_INDEPENDENT:
            return
        if self._asked or self._surveys or self._measures or not behaviour.reaches_server:
            return
        self._measures = behaviour.base.host
        count = 1 + len(IDLE_SECONDS)
        self._asked[self._measures] = count
        self._timers.arm(_Timer.SOCKETS, now + SOCKETS_SECONDS)
        self._outputs.append(OpenSockets(DISCOVERY, self._measures, count))

    def _begin_measurement(self, host: str, now: float) -> None:
        bases = self._sockets.get(host, [])
        server = next((server for server in self._servers if not server.is_ipv6), None)
        if len(bases) <= len(IDLE_SECONDS) or server is None:
            self._end_measurement()
            return
        self._measurement = LifetimeMeasurement(
            bases[0], bases[1:], server, random=self._random, now=now
        )
        self._drain(now)

    def _end_measurement(self) -> None:
        host, self._measures, self._measurement = self._measures, None, None
        if host is not None:
            self._asked.pop(host, None)
            self._close(host)

    def _drain(self, now: float) -> None:
        if self._measurement is not None:
            for learned in self._measurement.outputs():
                if isinstance(learned, LifetimeLearned):
                    self._lifetime_seconds = learned.seconds or self._lifetime_seconds
                    self._tell()
                else:
                    self._outputs.append(learned)
            if self._measurement.done:
                self._end_measurement()
        for host, survey in tuple(self._surveys.items()):
            for output in survey.outputs():
                if isinstance(output, BehaviourLearned):
                    self._learn(output.behaviour)
                else:
                    self._outputs.append(output)
            if survey.done:
                del self._surveys[host]
                self._close(host)
                self._timers.arm(_Timer.LIFETIME, now + LIFETIME_AFTER_SECONDS)

    def _learn(self, behaviour: NatBehaviour) -> None:
        if behaviour.base.is_ipv6:
            self._filtering_ipv6 = behaviour.filtering
        else:
            self.behaviour = behaviour
        self._tell()

    def _tell(self) -> None:
        if self.behaviour is not None:
            report = structs.replace(
                self.behaviour.report(self._filtering_ipv6), lifetime_seconds=self._lifetime_seconds
            )
            if report != self.report:
                self.report = report
                self._outputs.append(NatLearned(report))

    def _close(self, host: str) -> None:
        sockets = self._sockets.pop(host, [])
        if sockets:
            self._outputs.append(CloseSockets(tuple(sockets)))

    def _stop(self) -> None:
        self._end_measurement()
        self._surveys.clear()
        self._asked.clear()
        self._timers.clear()
        for host in tuple(self._sockets):
            self._close(host)

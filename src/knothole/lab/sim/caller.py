"""A whole client in small: STUN, TURN and ICE engines put together over one host's addresses.

The simulator's subject, so that these engines are tried out with one another and nothing else:
what knothole itself runs is the endpoint engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.ice import (
    BETWEEN_KNOTHOLES,
    BestPairChanged,
    IceAgent,
    IceCredentials,
    IceOptions,
    IceOutput,
    Pair,
)
from knothole.engine.stun.client import (
    BindingClient,
    BindingOutput,
    MappedAddressChanged,
    MappedAddressLearned,
)
from knothole.engine.turn.client import Allocated, Allocation, AllocationOutput, Credentials
from knothole.engine.turn.client_events import RelayedDataReceived
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import Candidate, CandidateKind, candidate_priority
from knothole.wire.stun import looks_like_stun

FIRST_STREAM_PORT: Final = 40000  # ours: local ports of connections to TURN servers, from here on


@dataclass(frozen=True, slots=True)
class Service:
    """A TURN server to use over one transport; over UDP it is asked for mapped addresses too."""

    address: Address
    transport: Transport = Transport.UDP


@dataclass(frozen=True, slots=True)
class CandidateGathered:
    """There is one more candidate to tell the peer."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class PayloadReceived:
    """Payload came from an authenticated remote address."""

    payload: bytes
    base: Address
    source: Address


CallerOutput: TypeAlias = (
    IceOutput | CandidateGathered | PayloadReceived | BindingOutput | AllocationOutput
)


class Caller:
    """Gathers as soon as it exists; ``call`` starts ICE with what there is, later candidates
    trickle. ``greeting``, when set, is sent on every pair that becomes the best one."""

    def __init__(
        self,
        bases: Sequence[Address],
        services: Sequence[Service],
        *,
        credentials: Credentials | None,
        random: RandomBytes,
        now: float,
        greeting: bytes = b"",
    ) -> None:
        self.bases, self.greeting = tuple(bases), greeting
        self.candidates: list[tuple[Candidate, Address]] = []
        self.agent: IceAgent | None = None
        self._random = random
        self._services = {service.address: service for service in services}
        self._bindings: list[BindingClient] = []
        self._allocations: list[Allocation] = []
        self._outputs: deque[CallerOutput] = deque()
        for base in bases:
            self._add(CandidateKind.HOST, base, base, None)
        streams = 0
        for service in services:
            for base in bases:
                if base.is_ipv6 != service.address.is_ipv6:
                    continue
                if service.transport is Transport.UDP:
                    self._bindings.append(
                        BindingClient(
                            base, service.address, random=random, now=now, keepalive_seconds=15.0
                        )
                    )
                else:
                    base = Address(base.host, FIRST_STREAM_PORT + streams)
                    streams += 1
                if credentials is not None:
                    self._allocations.append(
                        Allocation(
                            local=base,
                            server=service.address,
                            transport=service.transport,
                            credentials=credentials,
                            random=random,
                            now=now,
                        )
                    )
        self._settle(now)

    @property
    def sockets(self) -> tuple[Address, ...]:
        """Every local address that a host must bind for this client."""
        streams = (a.local for a in self._allocations if a.transport is not Transport.UDP)
        return (*self.bases, *streams)

    @property
    def best_pair(self) -> Pair | None:
        """Where payload goes now."""
        return None if self.agent is None else self.agent.best_pair

    def call(
        self,
        local: IceCredentials,
        *,
        controlling: bool,
        now: float,
        options: IceOptions = BETWEEN_KNOTHOLES,
    ) -> None:
        """Make the ICE agent and give it the candidates that there are."""
        tie_breaker = int.from_bytes(self._random(8), "big")
        self.agent = IceAgent(
            controlling=controlling,
            local=local,
            tie_breaker=tie_breaker,
            random=self._random,
            now=now,
            options=options,
        )
        for candidate, base in self.candidates:
            self.agent.add_local_candidate(candidate, base, now)
        self._settle(now)

    def learn(self, remote: IceCredentials, candidates: Sequence[Candidate], now: float) -> None:
        """What the peer has told: its credentials, and candidates as it has them."""
        assert self.agent is not None
        self.agent.set_remote_credentials(remote, now)
        for candidate in candidates:
            self.agent.add_remote_candidate(candidate, now)
        self._settle(now)

    def end_of_candidates(self, now: float) -> None:
        """Neither side has more to tell."""
        assert self.agent is not None
        self.agent.end_of_local_candidates(now)
        self.agent.end_of_remote_candidates(now)
        self._settle(now)

    def send(self, payload: bytes, now: float) -> bool:
        """Send payload on the best pair; False if there is none. It must not look like STUN."""
        pair = self.best_pair
        if pair is None:
            return False
        self._transmit(Datagram(pair.base, pair.remote_address, payload), now)
        self._settle(now)
        return True

    def receive(self, datagram: Datagram, now: float) -> None:
        if datagram.source in self._services:
            for binding in self._bindings:
                if (binding.base, binding.server) == (datagram.destination, datagram.source):
                    binding.receive(datagram, now)
            for allocation in self._allocations:
                if (allocation.local, allocation.server) == (
                    datagram.destination,
                    datagram.source,
                ):
                    allocation.receive(datagram, now)
        else:
            self._take(datagram, now)
        self._settle(now)

    def handle_timeout(self, now: float) -> None:
        for child in self._children():
            child.handle_timeout(now)
        self._settle(now)

    def next_timeout(self) -> float | None:
        return least(*(child.next_timeout() for child in self._children()))

    def outputs(self) -> Iterator[CallerOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _children(self) -> Iterator[BindingClient | Allocation | IceAgent]:
        yield from self._bindings
        yield from self._allocations
        if self.agent is not None:
            yield self.agent

    def _take(self, datagram: Datagram, now: float) -> None:
        """What came from a peer, by our own sockets or by a relay."""
        agent = self.agent
        if agent is None:
            return
        if looks_like_stun(datagram.payload):
            agent.receive(datagram, now)
        elif agent.is_authenticated_remote(datagram.destination, datagram.source):
            self._outputs.append(
                PayloadReceived(datagram.payload, datagram.destination, datagram.source)
            )

    def _settle(self, now: float) -> None:
        """Carry out what the children put out, until they have nothing more to say."""
        busy = True
        while busy:
            busy = False
            for child in self._children():
                for output in child.outputs():
                    busy = True
                    self._handle(child, output, now)

    def _handle(
        self,
        child: BindingClient | Allocation | IceAgent,
        output: BindingOutput | AllocationOutput | IceOutput,
        now: float,
    ) -> None:
        match output:
            case Transmit(datagram) if child is self.agent:
                self._transmit(datagram, now)
                return
            case RelayedDataReceived(datagram):
                self._take(datagram, now)
                return
            case MappedAddressLearned(base, _, mapped) | MappedAddressChanged(base, _, _, mapped):
                self._add(CandidateKind.SERVER_REFLEXIVE, mapped, base, now)
            case Allocated(relayed, _, _):
                self._add(CandidateKind.RELAYED, relayed, relayed, now)
            case BestPairChanged(pair) if pair is not None and self.greeting:
                self.send(self.greeting, now)
        self._outputs.append(output)

    def _transmit(self, datagram: Datagram, now: float) -> None:
        """Send from a socket, or from a relayed address by its allocation."""
        for allocation in self._allocations:
            if allocation.relayed_address == datagram.source:
                allocation.send(datagram.destination, datagram.payload, 0, now)
                return
        self._outputs.append(Transmit(datagram))

    def _add(self, kind: CandidateKind, address: Address, base: Address, now: float | None) -> None:
        if any(candidate.address == address for candidate, _ in self.candidates):
            return
        preference = 65535 - len(self.candidates)
        foundation = f"{kind.value}{len(self.candidates)}"
        candidate = Candidate(
            foundation,
            1,
            "udp",
            candidate_priority(kind, preference),
            address,
            kind,
            None if base == address else base,
        )
        self.candidates.append((candidate, base))
        self._outputs.append(CandidateGathered(candidate))
        if self.agent is not None and now is not None:
            self.agent.add_local_candidate(candidate, base, now)

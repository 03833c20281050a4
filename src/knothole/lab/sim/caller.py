"""A whole client in small: STUN, TURN and ICE engines put together over one host's addresses.

The simulator's subject, so that these engines are tried out with one another and nothing else:
what knothole itself runs is the endpoint engine.
"""

from __future__ import annotations

import itertools
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
from knothole.engine.turn.client_events import AllocationLost, RelayedDataReceived
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import Candidate, CandidateKind, candidate_priority
from knothole.wire.stun import looks_like_stun

FIRST_STREAM_PORT: Final = 40000  # ours: local ports of connections to TURN servers, from here on
SUSPECT_SECONDS: Final = 1.0  # ours: sent for so long and heard nothing, so the path is doubted


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
    trickle. ``greeting``, when set, is sent on every pair that becomes the best one.

    As owner of the ICE agent it has the path probed when nothing comes back, and when payload comes
    by another pair than it sends on; and then asks the servers for its mapped addresses again.
    """

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
        self.bases: list[Address] = []
        self.greeting = greeting
        self.candidates: list[tuple[Candidate, Address]] = []
        self.agent: IceAgent | None = None
        self._random, self._credentials = random, credentials
        self._services = {service.address: service for service in services}
        self._suspect_at: float | None = None
        self._heard_by: tuple[Address, Address] | None = None
        self._stream_ports = itertools.count(FIRST_STREAM_PORT)
        self._bindings: list[BindingClient] = []
        self._allocations: list[Allocation] = []
        self._outputs: deque[CallerOutput] = deque()
        for base in bases:
            self._gather(base, now)
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

    def add_base(self, base: Address, now: float) -> None:
        """Another interface is there; its sockets are bound already (see :attr:`sockets`)."""
        self._gather(base, now)
        self._settle(now)

    def remove_base(self, base: Address, now: float) -> None:
        """An interface is gone, and what was gathered over it."""
        self.bases.remove(base)
        gone = [a for a in self._allocations if a.local.host == base.host]
        lost = [base, *(a.relayed_address for a in gone if a.relayed_address is not None)]
        self._bindings = [binding for binding in self._bindings if binding.base != base]
        self._allocations = [a for a in self._allocations if a not in gone]
        self.candidates = [entry for entry in self.candidates if entry[1] not in lost]
        if self.agent is not None:
            for each in lost:
                self.agent.remove_local_base(each, now)
        self._settle(now)

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
        if self._suspect_at is None:
            self._suspect_at = now + SUSPECT_SECONDS
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
        if self._suspect_at is not None and now >= self._suspect_at:
            self._suspect_at = None
            self._doubt(now)
        self._settle(now)

    def next_timeout(self) -> float | None:
        return least(self._suspect_at, *(child.next_timeout() for child in self._children()))

    def outputs(self) -> Iterator[CallerOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _gather(self, base: Address, now: float) -> None:
        self.bases.append(base)
        self._add(CandidateKind.HOST, base, base, now)
        random = self._random
        for service in self._services.values():
            server, transport = service.address, service.transport
            if base.is_ipv6 != server.is_ipv6:
                continue
            local = base
            if transport is Transport.UDP:
                self._bindings.append(
                    BindingClient(base, server, random=random, now=now, keepalive_seconds=15.0)
                )
            else:
                local = Address(base.host, next(self._stream_ports))
            self._allocate(local, server, transport, now)

    def _allocate(self, local: Address, server: Address, transport: Transport, now: float) -> None:
        if self._credentials is not None:
            self._allocations.append(
                Allocation(
                    local=local,
                    server=server,
                    transport=transport,
                    credentials=self._credentials,
                    random=self._random,
                    now=now,
                )
            )

    def _allocate_again(self, local: Address, server: Address, now: float) -> None:
        """The server knows us by a 5-tuple that is no more, or does not know us any more."""
        stale = [a for a in self._allocations if (a.local, a.server) == (local, server)]
        self._allocations = [a for a in self._allocations if a not in stale]
        for allocation in stale:
            if self.agent is not None and allocation.relayed_address is not None:
                self.agent.remove_local_base(allocation.relayed_address, now)
            self._allocate(local, server, allocation.transport, now)

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
            base, source = datagram.destination, datagram.source
            self._outputs.append(PayloadReceived(datagram.payload, base, source))
            self._suspect_at = None
            best = agent.best_pair
            if best is not None and self._heard_by != (base, source):
                if (best.base, best.remote_address) != (base, source):
                    agent.probe(now)
                self._heard_by = (base, source)

    def _doubt(self, now: float) -> None:
        """Nothing comes through: perhaps the path is dead, perhaps our own router restarted."""
        if self.agent is not None:
            self.agent.probe(now)
        for binding in self._bindings:
            binding.refresh(now)

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
            case MappedAddressLearned(base, _, mapped):
                self._add(CandidateKind.SERVER_REFLEXIVE, mapped, base, now)
            case MappedAddressChanged(base, server, _, mapped):
                self._add(CandidateKind.SERVER_REFLEXIVE, mapped, base, now)
                self._allocate_again(base, server, now)
            case AllocationLost() if isinstance(child, Allocation):
                self._allocate_again(child.local, child.server, now)
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

    def _add(self, kind: CandidateKind, address: Address, base: Address, now: float) -> None:
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
        if self.agent is not None:
            self.agent.add_local_candidate(candidate, base, now)

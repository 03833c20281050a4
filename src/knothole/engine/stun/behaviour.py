"""What the NAT in front of us does, found out by asking (RFC 5780 Section 4): facts, no verdicts.

One base asks several addresses of STUN servers. First, while nothing was sent elsewhere yet, the
first server is asked to answer from other addresses: what comes through is what the NAT does not
filter. Then every other address is asked: whether they all see the same mapped address is what the
NAT does with mapping. The base must be fresh; one that has talked to those servers tells nothing
about filtering.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.stun.transaction import Retransmission, Transaction, TransactionTimedOut
from knothole.wire.address import Address
from knothole.wire.nat import Dependence
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    ChangeRequest,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    OtherAddress,
    XorMappedAddress,
    decode,
    encode,
)

# Ours: no answer is an answer here, so it must not take the standard's 39.5 s. Requests at 0, 0.3
# and 0.9 s; what has not come after 1.8 s does not come.
DISCOVERY_RETRANSMISSION: Final = Retransmission(rto_seconds=0.3, max_requests=3, last_wait=3)


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """What was seen. None means: these servers could not tell.

    ``mapped`` has the mapped address that each server address saw; it is empty when UDP does not
    reach any. ``answered_from_other_host`` and ``answered_from_other_port`` say whether an answer
    came through that was sent from an address the base had never talked to. ``hairpinning`` says
    whether a datagram to the own mapped address came back in.
    """

    base: Address
    mapped: Mapping[Address, Address] = field(default_factory=dict)
    answered_from_other_host: bool | None = None
    answered_from_other_port: bool | None = None
    hairpinning: bool | None = None

    @property
    def reaches_server(self) -> bool:
        """Whether UDP gets to a server and back."""
        return bool(self.mapped)

    @property
    def translated(self) -> bool | None:
        """Whether the address changes on the way."""
        return any(each != self.base for each in self.mapped.values()) if self.mapped else None

    @property
    def preserves_port(self) -> bool | None:
        """Whether every mapped address has the base's port."""
        if not self.mapped:
            return None
        return all(each.port == self.base.port for each in self.mapped.values())

    @property
    def mapping_varies_by_host(self) -> bool | None:
        """Whether servers on different IP addresses see different mapped addresses."""
        return self._varies(same_host=False)

    @property
    def mapping_varies_by_port(self) -> bool | None:
        """Whether two ports of the same IP address see different mapped addresses."""
        return self._varies(same_host=True)

    @property
    def mapping(self) -> Dependence | None:
        """Mapping behaviour (RFC 4787 Section 4.1)."""
        if self.mapping_varies_by_port:
            return Dependence.ADDRESS_AND_PORT_DEPENDENT
        if self.mapping_varies_by_host is False:
            return Dependence.ENDPOINT_INDEPENDENT
        if self.mapping_varies_by_host and self.mapping_varies_by_port is False:
            return Dependence.ADDRESS_DEPENDENT
        return None

    @property
    def filtering(self) -> Dependence | None:
        """Filtering behaviour (RFC 4787 Section 5)."""
        if self.answered_from_other_host:
            return Dependence.ENDPOINT_INDEPENDENT
        if self.answered_from_other_port is False:
            return Dependence.ADDRESS_AND_PORT_DEPENDENT
        if self.answered_from_other_host is False and self.answered_from_other_port:
            return Dependence.ADDRESS_DEPENDENT
        return None

    def _varies(self, *, same_host: bool) -> bool | None:
        seen = list(self.mapped.items())
        compared = [
            first_mapped != second_mapped
            for index, (first, first_mapped) in enumerate(seen)
            for second, second_mapped in seen[index + 1 :]
            if (first.host == second.host) is same_host
        ]
        return any(compared) if compared else None


@dataclass(frozen=True, slots=True)
class BehaviourLearned:
    """The discovery has ended; nothing more will be sent."""

    behaviour: NatBehaviour


DiscoveryOutput: TypeAlias = Transmit | BehaviourLearned


class _Test(enum.Enum):
    MAPPED = enum.auto()  # RFC 5780 Section 4.3, Tests I to III
    OTHER_HOST = enum.auto()  # RFC 5780 Section 4.4, Test II
    OTHER_PORT = enum.auto()  # ibid., Test III
    HAIRPIN = enum.auto()  # RFC 5780 Section 4.5


class _Phase(enum.Enum):
    FIRST_ANSWER = enum.auto()
    FILTERING = enum.auto()
    MAPPING = enum.auto()
    DONE = enum.auto()


@dataclass(slots=True)
class _Running:
    test: _Test
    server: Address
    transaction: Transaction


class BehaviourDiscovery:
    """Finds out the :class:`NatBehaviour` of what stands between ``base`` and ``servers``.

    ``servers`` are addresses of STUN servers, the first of which is asked about filtering. More of
    them, on other ports and other IP addresses, tell more; a server of RFC 5780 names its others
    itself. Takes one to four seconds, most of it waiting for what does not come.
    """

    def __init__(
        self,
        base: Address,
        servers: Sequence[Address],
        *,
        random: RandomBytes,
        now: float,
        retransmission: Retransmission = DISCOVERY_RETRANSMISSION,
    ) -> None:
        if not servers:
            raise ValueError("discovery needs the address of a STUN server")
        self._base = base
        self._servers = list(dict.fromkeys(servers))
        self._random = random
        self._retransmission = retransmission
        self._phase = _Phase.FIRST_ANSWER
        self._running: dict[bytes, _Running] = {}
        self._outputs: deque[DiscoveryOutput] = deque()
        self._mapped: dict[Address, Address] = {}
        self._came_through: dict[_Test, bool | None] = {}
        self._ask(_Test.MAPPED, self._servers[0], now)

    def receive(self, datagram: Datagram, now: float) -> None:
        try:
            message = decode(datagram.payload)
        except MalformedMessage:
            return
        running = self._running.get(message.transaction_id)
        if running is None or datagram.destination != self._base:
            return
        if running.test is _Test.HAIRPIN:
            # Our own request, or whatever another program made of it: it came through the NAT.
            self._conclude(running, True, now)
        elif running.transaction.answered_by(message):
            self._take_answer(running, message, datagram.source, now)

    def handle_timeout(self, now: float) -> None:
        for running in list(self._running.values()):
            running.transaction.handle_timeout(now)
            self._drain(running, now)

    def next_timeout(self) -> float | None:
        return least(*(each.transaction.next_timeout() for each in self._running.values()))

    def outputs(self) -> Iterator[DiscoveryOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _ask(self, test: _Test, server: Address, now: float) -> None:
        attributes: tuple[Attribute, ...] = ()
        if test is _Test.OTHER_HOST:
            attributes = (ChangeRequest(change_ip=True, change_port=True),)
        elif test is _Test.OTHER_PORT:
            attributes = (ChangeRequest(change_port=True),)
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        request = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes)
        transaction = Transaction(
            Datagram(self._base, server, encode(request)),
            now,
            retransmission=self._retransmission,
        )
        self._running[transaction_id] = _Running(test, server, transaction)
        self._drain(self._running[transaction_id], now)

    def _drain(self, running: _Running, now: float) -> None:
        for output in running.transaction.outputs():
            if isinstance(output, TransactionTimedOut):
                self._conclude(running, False, now)
            else:
                self._outputs.append(output)

    def _take_answer(
        self, running: _Running, message: Message, source: Address, now: float
    ) -> None:
        mapped = message.get(XorMappedAddress)
        succeeded = message.message_class is MessageClass.SUCCESS and mapped is not None
        if running.test is _Test.MAPPED:
            if succeeded and mapped is not None and source == running.server:
                self._mapped[running.server] = mapped.address
                self._learn_other_addresses(running.server, message)
            self._conclude(running, succeeded, now)
            return
        # An error, or an answer from where the request went, says that this server cannot do it.
        expected = source.port != running.server.port and (
            running.test is _Test.OTHER_PORT or source.host != running.server.host
        )
        self._conclude(running, True if succeeded and expected else None, now)

    def _learn_other_addresses(self, server: Address, message: Message) -> None:
        other = message.get(OtherAddress)
        if other is None or server != self._servers[0] or other.address.host == server.host:
            return
        # RFC 5780 Section 4.3: Test II goes to the other host, Test III to the other port of it.
        for each in (Address(other.address.host, server.port), other.address):
            if each not in self._servers:
                self._servers.append(each)

    def _conclude(self, running: _Running, came_through: bool | None, now: float) -> None:
        running.transaction.abandon()
        self._running.pop(running.transaction.transaction_id, None)
        if running.test is not _Test.MAPPED:
            self._came_through[running.test] = came_through
        if not self._running:
            self._next_phase(now)

    def _next_phase(self, now: float) -> None:
        first = self._servers[0]
        match self._phase:
            case _Phase.FIRST_ANSWER if first in self._mapped:
                self._phase = _Phase.FILTERING
                self._ask(_Test.OTHER_HOST, first, now)
                self._ask(_Test.OTHER_PORT, first, now)
            case _Phase.FIRST_ANSWER | _Phase.FILTERING:
                self._phase = _Phase.MAPPING
                for server in self._servers[1:]:
                    self._ask(_Test.MAPPED, server, now)
                mapped = self._mapped.get(first)
                if mapped is not None and mapped != self._base:
                    self._ask(_Test.HAIRPIN, mapped, now)
                if not self._running:
                    self._finish()
            case _Phase.MAPPING:
                self._finish()
            case _Phase.DONE:
                pass

    def _finish(self) -> None:
        self._phase = _Phase.DONE
        found = NatBehaviour(
            self._base,
            dict(self._mapped),
            self._came_through.get(_Test.OTHER_HOST),
            self._came_through.get(_Test.OTHER_PORT),
            self._came_through.get(_Test.HAIRPIN),
        )
        self._outputs.append(BehaviourLearned(found))

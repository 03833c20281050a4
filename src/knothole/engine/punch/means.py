"""What a tactic has at hand: sockets, samples, probes to one vouched host, words to the peer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.endpoint.history import AnyStep, PoolKnown, Probed, SocketsUsed
from knothole.engine.endpoint.history import Sampled as SampledStep
from knothole.engine.ice.agent import IceAgent
from knothole.engine.predict.budget import Ledger
from knothole.engine.predict.vouched import VouchedHost
from knothole.wire.address import Address
from knothole.wire.signal.plans import Move, PlanTerms
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    MalformedMessage,
    MappedAddress,
    Message,
    MessageClass,
    Method,
    XorMappedAddress,
    decode,
    encode,
)

ROUND_SECONDS: Final = 0.1
"""Ours: a round whose packets are answered nowhere is over after this and four round trips."""

ROUND_RTTS: Final = 4
FIRST_RTT_SECONDS: Final = 0.1  # ours: what is assumed before a sample was answered


@dataclass(frozen=True, slots=True)
class Open:
    """Open so many further sockets at the local address ``host``."""

    host: str
    count: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close these."""

    bases: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the peer, sealed."""

    move: Move


@dataclass(frozen=True, slots=True)
class Note:
    """For the history of the call."""

    step: AnyStep


PunchOutput: TypeAlias = Transmit | Open | Close | Tell | Note


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server saw a fresh socket as, and when that was asked."""

    base: Address
    mapped: Address
    asked_at: float


class Means:
    """Shared by the tactics of one attempt; what they do ends up in ``outputs``, bounded by the
    ledger.

    ``base`` is the socket that our standing candidates are sent from, ``ports`` which of our bases
    is seen outside at which port, ``targets`` the ports of the peer's candidates at ``vouched``.
    ``ours`` is kept up to date by the attempt, ``theirs`` are their first terms.
    """

    def __init__(
        self,
        *,
        ice: IceAgent,
        ledger: Ledger,
        vouched: VouchedHost,
        base: Address,
        ports: dict[int, Address],
        targets: Sequence[int],
        server: Address | None,
        ours: PlanTerms,
        theirs: PlanTerms,
        random: RandomBytes,
    ) -> None:
        self.ledger: Final = ledger
        self.base: Final = base
        self.ports: Final = ports
        self.targets: Final = tuple(targets)
        self.ours = ours
        self.theirs: Final = theirs
        self.random: Final = random
        self.rtt_seconds = FIRST_RTT_SECONDS
        self.probes = 0
        """How many probes have gone to the peer."""
        self.outputs: deque[PunchOutput] = deque()
        self._ice = ice
        self._vouched = vouched
        self._server = server
        self._asked: dict[bytes, tuple[Address, float]] = {}
        self._open: set[Address] = set()
        self._awaited = 0

    @property
    def round_seconds(self) -> float:
        """When a round that brought nothing is given up."""
        return ROUND_SECONDS + ROUND_RTTS * self.rtt_seconds

    def open(self, count: int) -> int:
        """Ask for so many further sockets; how many the budget has."""
        granted = self.ledger.take_sockets(count)
        if granted:
            self._awaited += granted
            self.outputs.append(Open(self.base.host, granted))
            self.outputs.append(Note(SocketsUsed(granted)))
        return granted

    def opened(self, bases: Iterable[Address]) -> None:
        """These were asked for."""
        fresh = set(bases) - self._open
        self._open |= fresh
        self._awaited -= len(fresh)

    def refuse(self, bases: Iterable[Address]) -> None:
        """These come too late: :meth:`close_all` has given them back to the budget already."""
        if late := tuple(bases):
            self.outputs.append(Close(late))

    def close(self, bases: Iterable[Address]) -> None:
        """Give further sockets back, but those that were given away by :meth:`keep`."""
        gone = tuple(base for base in bases if base in self._open)
        self._open.difference_update(gone)
        self.ledger.give_sockets(len(gone))
        if gone:
            self.outputs.append(Close(gone))

    def keep(self, base: Address) -> None:
        """A way was found to this one: it is no longer ours to close, nor counted."""
        if base in self._open:
            self._open.remove(base)
            self.ledger.give_sockets(1)

    def lost(self, base: Address) -> None:
        """A socket is gone by itself."""
        if base in self._open:
            self._open.remove(base)
            self.ledger.give_sockets(1)

    def close_all(self, keep: Iterable[Address]) -> None:
        """The attempt is over: all but ``keep`` are closed, which count no more."""
        kept = self._open.intersection(keep)
        self._open -= kept
        self.ledger.give_sockets(len(kept) + max(0, self._awaited))
        self._awaited = 0
        self.close(tuple(self._open))

    def sample(self, base: Address, now: float) -> None:
        """Ask the server where ``base`` is seen, once: a sample that is late is of no use. It takes
        a line of our router's table as a probe does, and is counted as one."""
        if self._server is None or not self.ledger.take_probes(self._server.host, 1, now):
            return
        transaction_id = self.random(TRANSACTION_ID_SIZE)
        self._asked[transaction_id] = base, now
        request = encode(Message(MessageClass.REQUEST, Method.BINDING, transaction_id))
        self.outputs.append(Transmit(Datagram(base, self._server, request)))

    def answered(self, datagram: Datagram, now: float) -> Sample | None:
        """The sample that this datagram is the answer to."""
        if datagram.source != self._server or len(datagram.payload) < 20:
            return None
        asked = self._asked.pop(datagram.payload[8:20], None)
        if asked is None or asked[0] != datagram.destination:
            return None
        try:
            message = decode(datagram.payload)
        except MalformedMessage:
            return None
        mapped = message.get(XorMappedAddress) or message.get(MappedAddress)
        if message.message_class is not MessageClass.SUCCESS or mapped is None:
            return None
        self.rtt_seconds = now - asked[1]
        self.outputs.append(Note(SampledStep(mapped.address)))
        return Sample(datagram.destination, mapped.address, asked[1])

    def probe(self, kind: str, ends: Sequence[tuple[Address, int]], now: float) -> int:
        """Send a check from each of these bases to that port of the vouched host, as far as the
        budget goes; how many went."""
        payload = self._ice.stray_check()
        granted = self.ledger.take_probes(self._vouched.host, len(ends), now)
        if payload is None or not granted:
            return 0
        for base, port in ends[:granted]:
            self.outputs.append(Transmit(Datagram(base, self._vouched.at(port), payload)))
        self.probes += granted
        ports = [port for _, port in ends[:granted]]
        step = Probed(kind, granted, self._vouched.host, min(ports), max(ports))
        self.outputs.append(Note(step))
        return granted

    def note_pool(self, first: int, last: int, *, ours: bool) -> None:
        """Remember that one end's random ports are taken to be these from now on."""
        self.outputs.append(Note(PoolKnown(ours, first, last, self.probes)))

    def tell(self, move: Move) -> None:
        """Tell the peer."""
        self.outputs.append(Tell(move))

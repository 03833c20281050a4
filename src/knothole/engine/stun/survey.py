"""NAT discovery from several fresh sockets at once (RFC 5780 Section 4, and samples of ports).

One socket is for filtering: while it has talked to one address only, the server is asked to answer
from others, and what comes through is what the NAT does not filter. One is for mapping: every
server address is asked from it, and its own mapped address. All others are samples: each makes one
mapping, some at once and some later, so that a rule can be told from chance and from neighbours.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit, least
from knothole.engine.stun.assignment import Sample, is_settled
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.engine.stun.transaction import Retransmission, Transaction, TransactionTimedOut
from knothole.wire.address import Address
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    ChangeRequest,
    MalformedMessage,
    MappedAddress,
    Message,
    MessageClass,
    Method,
    OtherAddress,
    XorMappedAddress,
    decode,
    encode,
)

# Ours: no answer is an answer here, so it must not take the standard's 39.5 s. Requests at 0, 0.3
# and 0.9 s; what has not come after 1.5 s does not come.
QUESTION: Final = Retransmission(rto_seconds=0.3, max_requests=3, last_wait=2)
SAMPLE: Final = Retransmission(rto_seconds=0.3, max_requests=1, last_wait=3)
"""Ours: asked once, or nobody would know which packet made the mapping."""

MAX_PACKETS: Final = 60  # ours, both ways: what a discovery may put on a line
LATER_SECONDS: Final = 1.8  # ours: when the other samples are taken; neighbours show in between
LONGEST_SECONDS: Final = 2.9  # ours: then what is known is all
ROLES: Final = 2  # the first socket is for filtering, the second for mapping


@dataclass(frozen=True, slots=True)
class BehaviourLearned:
    """What is known now. When ``final``, the discovery has ended and nothing more will be sent."""

    behaviour: NatBehaviour
    final: bool


SurveyOutput: TypeAlias = Transmit | BehaviourLearned


class _Test(enum.Enum):
    MAPPED = enum.auto()  # RFC 5780 Section 4.3, Tests I to III
    OTHER_HOST = enum.auto()  # RFC 5780 Section 4.4, Test II
    OTHER_PORT = enum.auto()  # ibid., Test III
    HAIRPIN = enum.auto()  # RFC 5780 Section 4.5


class _Timer(enum.Enum):
    LATER = enum.auto()
    END = enum.auto()


@dataclass(slots=True, eq=False)
class _Question:
    test: _Test
    base: Address
    server: Address
    at: float
    transaction: Transaction
    plan: Retransmission
    mapped: Address | None = None
    certain: bool = True


class Survey:
    """Finds out the :class:`NatBehaviour` of what stands between ``bases`` and ``servers``.

    ``bases`` are fresh sockets on one local address, two at least, their ports chosen without a
    pattern; ``servers`` are addresses of STUN servers, the first of which is asked about filtering.
    More of them, on other ports and other IP addresses, tell more; a server of RFC 5780 names its
    others itself. Says BehaviourLearned as soon as the mapped addresses are known, and again at the
    end, within LONGEST_SECONDS.
    """

    def __init__(
        self,
        bases: Sequence[Address],
        servers: Sequence[Address],
        *,
        random: RandomBytes,
        now: float,
        max_packets: int = MAX_PACKETS,
    ) -> None:
        if not servers or len(bases) < ROLES:
            raise ValueError("discovery needs two sockets and the address of a STUN server")
        self._filter_base, self._mapping_base, *samples = bases
        self._servers = list(dict.fromkeys(servers))
        self._random = random
        self._max_packets = max_packets
        self._packets = 0
        self._questions: list[_Question] = []  # in the order in which they were asked
        self._running: dict[bytes, _Question] = {}
        self._came_through: dict[_Test, bool | None] = {}
        self._timers: Timers[_Timer] = Timers()
        self._told_first = self._done = False
        self._outputs: deque[SurveyOutput] = deque()
        self._timers.arm(_Timer.END, now + LONGEST_SECONDS)
        self._ask(_Test.MAPPED, self._filter_base, self._servers[0], now)
        for server in self._servers:
            self._ask(_Test.MAPPED, self._mapping_base, server, now)
        at_once = len(samples) // 2
        self._later = samples[at_once:]
        for base in samples[:at_once]:
            self._ask(_Test.MAPPED, base, self._servers[0], now, SAMPLE)
        if self._later:
            self._timers.arm(_Timer.LATER, now + LATER_SECONDS)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._done

    def receive(self, datagram: Datagram, now: float) -> None:
        try:
            message = decode(datagram.payload)
        except MalformedMessage:
            return
        question = self._running.get(message.transaction_id)
        if question is None or datagram.destination != question.base:
            return
        self._packets += 1
        if question.test is _Test.HAIRPIN:
            # Our own request, or whatever another program made of it: it came through the NAT.
            self._conclude(question, True)
        elif question.transaction.answered_by(message):
            self._take_answer(question, message, datagram.source, now)
        self._go_on(now)

    def handle_timeout(self, now: float) -> None:
        for question in list(self._running.values()):
            question.transaction.handle_timeout(now)
            self._drain(question)
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.LATER:
                    self._take_later_samples(now)
                case _Timer.END:
                    for question in list(self._running.values()):
                        sent = question.transaction.requests_sent
                        self._conclude(question, False if sent > 1 else None)
                    self._later = []
        self._go_on(now)

    def next_timeout(self) -> float | None:
        if self._done:
            return None
        running = (each.transaction.next_timeout() for each in self._running.values())
        return least(self._timers.next(), *running)

    def outputs(self) -> Iterator[SurveyOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # ---------------------------------------------------------------------------- asking

    def _ask(
        self,
        test: _Test,
        base: Address,
        server: Address,
        now: float,
        plan: Retransmission = QUESTION,
    ) -> None:
        attributes: tuple[Attribute, ...] = ()
        if test is _Test.OTHER_HOST:
            attributes = (ChangeRequest(change_ip=True, change_port=True),)
        elif test is _Test.OTHER_PORT:
            attributes = (ChangeRequest(change_port=True),)
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        request = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes)
        datagram = Datagram(base, server, encode(request))
        transaction = Transaction(datagram, now, retransmission=plan)
        question = _Question(test, base, server, now, transaction, plan)
        self._questions.append(question)
        self._running[transaction_id] = question
        self._drain(question)

    def _drain(self, question: _Question) -> None:
        for output in question.transaction.outputs():
            if isinstance(output, TransactionTimedOut):
                self._conclude(question, False)
            else:
                self._packets += 1
                self._outputs.append(output)

    def _take_later_samples(self, now: float) -> None:
        left = self._max_packets - self._packets
        for question in self._running.values():  # its repetitions, and the answer
            left -= question.plan.max_requests - question.transaction.requests_sent + 1
        behaviour = self._behaviour()
        if behaviour.translated and not is_settled(behaviour.ports, behaviour.samples):
            for base in self._later[: max(0, left // 2)]:
                self._ask(_Test.MAPPED, base, self._servers[0], now, SAMPLE)
        self._later = []

    # --------------------------------------------------------------------------- answers

    def _take_answer(
        self, question: _Question, message: Message, source: Address, now: float
    ) -> None:
        mapped = message.get(XorMappedAddress) or message.get(MappedAddress)
        succeeded = message.message_class is MessageClass.SUCCESS and mapped is not None
        if question.test is not _Test.MAPPED:
            # An error, or an answer from where the request went: this server cannot do it.
            expected = source.port != question.server.port and (
                question.test is _Test.OTHER_PORT or source.host != question.server.host
            )
            self._conclude(question, True if succeeded and expected else None)
            return
        self._conclude(question, succeeded)
        if mapped is None or not succeeded or source != question.server:
            return
        question.mapped = mapped.address
        question.certain = question.transaction.requests_sent == 1
        if question.server != self._servers[0]:
            return
        if question.base == self._filter_base:
            self._ask(_Test.OTHER_HOST, question.base, question.server, now)
            self._ask(_Test.OTHER_PORT, question.base, question.server, now)
        elif question.base == self._mapping_base:
            self._ask_other_addresses(question.server, message, now)
            if mapped.address != question.base:
                self._ask(_Test.HAIRPIN, question.base, mapped.address, now)

    def _ask_other_addresses(self, server: Address, message: Message, now: float) -> None:
        other = message.get(OtherAddress)
        if other is None or other.address.host == server.host:
            return
        # RFC 5780 Section 4.3: Test II goes to the other host, Test III to the other port of it.
        for each in (Address(other.address.host, server.port), other.address):
            if each not in self._servers:
                self._servers.append(each)
                self._ask(_Test.MAPPED, self._mapping_base, each, now)

    def _conclude(self, question: _Question, came_through: bool | None) -> None:
        question.transaction.abandon()
        self._running.pop(question.transaction.transaction_id, None)
        if question.test is not _Test.MAPPED:
            self._came_through[question.test] = came_through

    # --------------------------------------------------------------------------- the end

    def _go_on(self, now: float) -> None:
        if self._done or any(each.test is _Test.MAPPED for each in self._running.values()):
            return
        behaviour = self._behaviour()
        if self._later and not behaviour.reaches_server:
            self._later = []
        finished = not self._running and not self._later
        if finished:
            self._done = True
            self._timers.clear()
        if finished or not self._told_first:
            self._told_first = True
            self._outputs.append(BehaviourLearned(behaviour, finished))

    def _behaviour(self) -> NatBehaviour:
        base = self._mapping_base
        mapped = {q.server: q.mapped for q in self._questions if q.base == base and q.mapped}
        seen = NatBehaviour(
            base,
            mapped,
            self._came_through.get(_Test.OTHER_HOST),
            self._came_through.get(_Test.OTHER_PORT),
            self._came_through.get(_Test.HAIRPIN),
        )
        return NatBehaviour(
            base,
            mapped,
            seen.answered_from_other_host,
            seen.answered_from_other_port,
            seen.hairpinning,
            tuple(self._samples(seen)),
        )

    def _samples(self, seen: NatBehaviour) -> Iterator[Sample]:
        """The new mappings, each with its number among our own."""
        numbers: dict[Hashable, int] = {}
        sampled: set[Hashable] = set()
        for question in self._questions:
            key: Hashable = question.base
            if seen.mapping_varies_by_port is not False:
                key = question.base, question.server
            elif seen.mapping_varies_by_host is not False:
                key = question.base, question.server.host
            number = numbers.setdefault(key, len(numbers))
            if question.mapped is not None and key not in sampled:
                sampled.add(key)
                yield Sample(question.at, number, question.base, question.mapped, question.certain)

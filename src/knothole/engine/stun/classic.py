"""RFC 3489's own discovery and its verdicts (Section 10.1), for servers and people that know them.

The verdicts mix mapping and filtering and fit few NATs of today, which is why RFC 8489 dropped
them; :mod:`knothole.engine.stun.survey` finds the facts.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.stun.transaction import Retransmission, Transaction, TransactionTimedOut
from knothole.wire.address import Address
from knothole.wire.stun import (
    CLASSIC_TRANSACTION_ID_SIZE,
    ChangedAddress,
    ChangeRequest,
    ErrorCode,
    MalformedMessage,
    MappedAddress,
    Message,
    MessageClass,
    Method,
    SourceAddress,
    decode,
    encode,
)

# RFC 3489 Section 9.3 begins with 100 ms, doubling, and gives up after 9 requests and 9.5 s. Ours:
# 5 requests and 3.1 s, since three of the verdicts need an answer that does not come.
CLASSIC_RETRANSMISSION: Final = Retransmission(rto_seconds=0.1, max_requests=5, last_wait=16)


class Verdict(enum.Enum):
    """RFC 3489 Section 10.1. The values are told to people."""

    UDP_BLOCKED = "UDP blocked"
    OPEN_INTERNET = "open internet"
    SYMMETRIC_FIREWALL = "symmetric UDP firewall"
    FULL_CONE = "full cone"
    RESTRICTED_CONE = "restricted cone"
    PORT_RESTRICTED_CONE = "port restricted cone"
    SYMMETRIC = "symmetric"


class ClassicTest(enum.Enum):
    """The tests of RFC 3489 Section 10.1, and Test I once more to CHANGED-ADDRESS."""

    FIRST = "I"
    SECOND = "II"
    FIRST_AGAIN = "I again"
    THIRD = "III"


@dataclass(frozen=True, slots=True)
class TestEnded:
    """One test: whom it asked, and what came; None is nothing, or an error."""

    __test__ = False  # no test of pytest's

    test: ClassicTest
    server: Address
    mapped: Address | None
    source: Address | None


@dataclass(frozen=True, slots=True)
class ClassicLearned:
    """The discovery has ended. ``verdict`` is None when this server cannot tell (``reason``)."""

    verdict: Verdict | None
    tests: tuple[TestEnded, ...]
    reason: str = ""


ClassicOutput: TypeAlias = Transmit | ClassicLearned


class ClassicDiscovery:
    """Asks ``server`` from ``base``, a fresh socket; takes up to 10 s (an engine)."""

    def __init__(self, base: Address, server: Address, *, random: RandomBytes, now: float) -> None:
        self._base = base
        self._server = server
        self._random = random
        self._mapped: Address | None = None
        self._changed: Address | None = None
        self._ended: list[TestEnded] = []
        self._test = ClassicTest.FIRST
        self._asked = server
        self._id = b""
        self._transaction: Transaction | None = None
        self._outputs: deque[ClassicOutput] = deque()
        self._ask(ClassicTest.FIRST, server, now)

    def receive(self, datagram: Datagram, now: float) -> None:
        try:
            message = decode(datagram.payload, classic=True)
        except MalformedMessage:
            return
        ours = message.transaction_id == self._id and datagram.destination == self._base
        if self._transaction is None or message.cookie or not ours:
            return
        if message.message_class is MessageClass.ERROR:
            error = message.get(ErrorCode)
            said = "an error" if error is None else f"{error.code} {error.reason}"
            self._finish(None, f"{self._asked} says {said} to Test {self._test.value}")
        elif message.message_class is MessageClass.SUCCESS:
            self._answered(message, datagram.source, now)

    def handle_timeout(self, now: float) -> None:
        if self._transaction is not None:
            self._transaction.handle_timeout(now)
            self._drain(now)

    def next_timeout(self) -> float | None:
        return None if self._transaction is None else self._transaction.next_timeout()

    def outputs(self) -> Iterator[ClassicOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _ask(self, test: ClassicTest, server: Address, now: float) -> None:
        self._test, self._asked = test, server
        second = test is ClassicTest.SECOND
        change = ChangeRequest(change_ip=second, change_port=second or test is ClassicTest.THIRD)
        self._id = self._random(CLASSIC_TRANSACTION_ID_SIZE)
        request = Message(MessageClass.REQUEST, Method.BINDING, self._id, (change,), cookie=False)
        self._transaction = Transaction(
            Datagram(self._base, server, encode(request)),
            now,
            retransmission=CLASSIC_RETRANSMISSION,
        )
        self._drain(now)

    def _drain(self, now: float) -> None:
        if self._transaction is None:
            return
        for output in self._transaction.outputs():
            if isinstance(output, TransactionTimedOut):
                self._ended.append(TestEnded(self._test, self._asked, None, None))
                self._go_on(None, now)
            else:
                self._outputs.append(output)

    def _answered(self, message: Message, source: Address, now: float) -> None:
        mapped = message.get(MappedAddress)
        if mapped is None or message.unknown_required:  # Section 9.4: "otherwise ignored"
            return
        # Where it came from counts, not what SOURCE-ADDRESS claims: NATs filter by the former.
        if self._test in (ClassicTest.SECOND, ClassicTest.THIRD) and source == self._asked:
            self._finish(None, f"{self._server} does not answer from another address")
            return
        changed = message.get(ChangedAddress)
        if self._test is ClassicTest.FIRST and changed is not None:
            self._changed = changed.address
        said = message.get(SourceAddress)
        origin = source if said is None else said.address
        self._ended.append(TestEnded(self._test, self._asked, mapped.address, origin))
        self._go_on(mapped.address, now)

    def _go_on(self, mapped: Address | None, now: float) -> None:
        """RFC 3489 Section 10.1, Figure 2."""
        translated = self._mapped != self._base
        match self._test:
            case ClassicTest.FIRST if mapped is None:
                self._finish(Verdict.UDP_BLOCKED)
            case ClassicTest.FIRST if self._changed is None:
                self._finish(None, f"{self._server} has no second address")
            case ClassicTest.FIRST:
                self._mapped = mapped
                self._ask(ClassicTest.SECOND, self._server, now)
            case ClassicTest.SECOND if mapped is not None:
                self._finish(Verdict.FULL_CONE if translated else Verdict.OPEN_INTERNET)
            case ClassicTest.SECOND if not translated:
                self._finish(Verdict.SYMMETRIC_FIREWALL)
            case ClassicTest.SECOND if self._changed is not None:
                self._ask(ClassicTest.FIRST_AGAIN, self._changed, now)
            case ClassicTest.FIRST_AGAIN if mapped is None:
                self._finish(None, f"{self._changed} does not answer")
            case ClassicTest.FIRST_AGAIN if mapped != self._mapped:
                self._finish(Verdict.SYMMETRIC)
            case ClassicTest.FIRST_AGAIN:
                self._ask(ClassicTest.THIRD, self._server, now)
            case _:
                restricted = mapped is not None
                self._finish(
                    Verdict.RESTRICTED_CONE if restricted else Verdict.PORT_RESTRICTED_CONE
                )

    def _finish(self, verdict: Verdict | None, reason: str = "") -> None:
        if self._transaction is not None:
            self._transaction.abandon()
        self._transaction = None
        self._outputs.append(ClassicLearned(verdict, tuple(self._ended), reason))

"""Connectivity checks as a client makes them: requests, their repetition, their answers' match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from knothole.engine.core import Datagram, RandomBytes
from knothole.engine.ice.credentials import IceCredentials, check_username
from knothole.engine.ice.options import IceOptions
from knothole.engine.ice.pair import CandidatePair, check_priority
from knothole.engine.ice.role import Role
from knothole.engine.ice.tally import Tally
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    IceControlled,
    IceControlling,
    Message,
    MessageClass,
    Method,
    Priority,
    UseCandidate,
    Username,
    encode,
)

# Ours: cancelled checks of one pair that may still be answered. A peer that triggers check after
# check would otherwise grow the table for as long as a transaction lasts.
MAX_CANCELLED: Final = 4

# RFC 7675 Section 5.1: each consent check "is transmitted once only". Ours: it may be answered for
# ten seconds.
CONSENT_WAITS: Final = [10.0]

# Ours, between knotholes: a valid pair in doubt is asked five times in half a second, so that loss
# alone hardly ever condemns it, and from then on often enough that its return is soon seen.
PROBE_INTERVAL_SECONDS: Final = 0.1
PROBES: Final = 5
LATER_PROBE_INTERVAL_SECONDS: Final = 0.4
LATER_PROBES: Final = 15


def check_waits(options: IceOptions, rto_seconds: float) -> list[float]:
    """When an ordinary check is repeated: the RTO, doubling (RFC 8489 Section 6.2.1)."""
    doubling = [
        min(rto_seconds * 2**n, max(rto_seconds, options.rto_limit_seconds))
        for n in range(options.transmissions - 1)
    ]
    return [*doubling, options.final_wait_rtos * rto_seconds]


def probe_waits(rtt_seconds: float) -> list[float]:
    """When a check on a pair in doubt is repeated, between knotholes."""
    first = max(PROBE_INTERVAL_SECONDS, rtt_seconds / 2)
    later = max(LATER_PROBE_INTERVAL_SECONDS, rtt_seconds)
    return [first] * PROBES + [later] * LATER_PROBES


@dataclass(slots=True, eq=False)
class Check:
    """One Binding transaction on a pair (RFC 8445 Section 7.2).

    ``next_at`` is when it is repeated or, after the last time, given up.
    """

    pair: CandidatePair
    datagram: Datagram
    transaction_id: bytes
    key: bytes
    role: IceControlling | IceControlled
    priority: int
    use_candidate: bool
    consent: bool
    sent_at: float
    waits: list[float]
    next_at: float
    gives_up_at: float
    repeated: bool = False
    cancelled: bool = False


class Checks:
    """Every transaction of one ICE session that may still be answered."""

    def __init__(
        self, local: IceCredentials, role: Role, random: RandomBytes, tally: Tally
    ) -> None:
        self._tally = tally
        self._local = local
        self._role = role
        self._random = random
        self._checks: dict[bytes, Check] = {}

    def start(
        self,
        pair: CandidatePair,
        remote: IceCredentials,
        now: float,
        waits: list[float],
        *,
        use_candidate: bool = False,
        consent: bool = False,
    ) -> Check:
        """A new check on ``pair``, repeated after each of ``waits`` (seconds) but the last, after
        which it has failed. Unless it is for consent, what was under way there is cancelled.
        """
        priority = check_priority(pair.local.candidate)
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        attributes: tuple[Attribute, ...] = (
            Username(check_username(self._local, remote)),
            Priority(priority),
            self._role.attribute,
        )
        if use_candidate:
            attributes += (UseCandidate(),)
        message = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes)
        payload = encode(message, key=remote.key, fingerprint=True)
        check = Check(
            pair=pair,
            datagram=Datagram(pair.base, pair.remote.address, payload, transport=pair.transport),
            transaction_id=transaction_id,
            key=remote.key,
            role=self._role.attribute,
            priority=priority,
            use_candidate=use_candidate,
            consent=consent,
            sent_at=now,
            waits=waits[1:],
            next_at=now + waits[0],
            gives_up_at=now + sum(waits),
        )
        if not consent:
            self._tally.sent(pair)
            self.cancel(pair)
        self._checks[transaction_id] = check
        return check

    def find(self, transaction_id: bytes) -> Check | None:
        return self._checks.get(transaction_id)

    def of(self, pair: CandidatePair) -> Check | None:
        """The check of ``pair`` that is being repeated, if there is one."""
        for check in self._checks.values():
            if check.pair is pair and not check.cancelled and not check.consent:
                return check
        return None

    def finish(self, check: Check) -> None:
        self._checks.pop(check.transaction_id, None)

    def cancel(self, pair: CandidatePair) -> None:
        """Stop repeating; an answer still counts (RFC 8445 Section 7.3.1.4)."""
        live = self.of(pair)
        if live is not None:
            live.cancelled = True
            live.next_at = live.gives_up_at
        cancelled = [each for each in self._checks.values() if each.pair is pair and each.cancelled]
        for check in cancelled[:-MAX_CANCELLED]:
            self.finish(check)

    def drop(self, pair: CandidatePair) -> None:
        """Forget everything under way on ``pair``: an answer counts no more."""
        for check in [each for each in self._checks.values() if each.pair is pair]:
            self.finish(check)

    def due(self, now: float) -> Iterator[tuple[Check, bool]]:
        """Checks whose time has come, each with whether it is repeated now (else it failed)."""
        for check in [each for each in self._checks.values() if each.next_at <= now]:
            if check.waits and not check.cancelled:
                check.repeated = True
                self._tally.sent(check.pair)
                check.next_at = now + check.waits.pop(0)
                yield check, True
            else:
                self.finish(check)
                yield check, False

    def next_timeout(self) -> float | None:
        return min((check.next_at for check in self._checks.values()), default=None)

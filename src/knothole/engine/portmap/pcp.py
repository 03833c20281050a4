"""A PCP client for one UDP socket and one gateway (RFC 6887)."""

from __future__ import annotations

import contextlib
import enum
import hmac
from collections import deque
from collections.abc import Iterator
from typing import Final

from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit
from knothole.engine.portmap.events import Changed, ClientOutput, GatewayAged
from knothole.engine.portmap.mapping import (
    LIFETIME_SECONDS,
    LONGEST_LIFETIME_SECONDS,
    MappingProtocol,
    PortMapping,
    Progress,
)
from knothole.wire.address import Address
from knothole.wire.portmap.pcp import (
    NONCE_SIZE,
    MapRequest,
    MapResponse,
    ResultCode,
    encode_map_request,
)

IRT: Final = 3.0  # RFC 6887 Section 8.1.1: "Initial retransmission time, SHOULD be 3 seconds"
MRT: Final = 1024.0  # ibid.: "Maximum retransmission time, SHOULD be 1024 seconds"
SILENT_AFTER: Final = 3
"""Ours: after so many requests without an answer the gateway is called silent; asking goes on."""

RENEWAL_GAP: Final = 4.0
"""RFC 6887 Section 11.2.1: renewal requests "MUST NOT be sent less than four seconds apart"."""

SHORTEST_REFUSAL: Final = 30.0
"""Ours: a refusal lasts that long, whatever shorter lifetime it has (RFC 6887 Section 7.2)."""


class _Timer(enum.Enum):
    SEND = enum.auto()
    EXPIRE = enum.auto()


class PcpClient:
    """Asks, renews and deletes one mapping (an :class:`~knothole.engine.core.Engine`).

    The mapper decodes what comes from the gateway and gives it to :meth:`answered`.
    """

    protocol: Final = MappingProtocol.PCP

    def __init__(self, base: Address, gateway: Address, random: RandomBytes, now: float) -> None:
        self.base = base
        self.gateway = gateway
        self.mapping: PortMapping | None = None
        self.progress = Progress.ASKING
        self.detail = ""
        self._random = random
        self._nonce = random(NONCE_SIZE)
        self._unanswered = 0
        self._wait = IRT
        self._in_doubt = False  # whether the gateway still has the mapping
        self._sent_at = now
        self._expires_at = now
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[ClientOutput] = deque()
        self._ask(now)

    # ------------------------------------------------------------------------ commands

    def ask_again(self, now: float) -> None:
        """The gateway may have forgotten: ask, but not twice within four seconds."""
        self._wait, self._unanswered, self._in_doubt = IRT, 0, True
        self._timers.arm(_Timer.SEND, max(now, self._sent_at + RENEWAL_GAP))
        if self.progress is not Progress.GRANTED:
            self._move(Progress.ASKING)

    def answered(self, response: MapResponse, now: float) -> None:
        """A decoded answer from the gateway's address. One with another nonce changes nothing."""
        if not hmac.compare_digest(response.nonce, self._nonce):
            return
        if response.internal_port != self.base.port:
            return
        self._outputs.append(GatewayAged(response.epoch_seconds))
        lifetime = min(response.lifetime_seconds, LONGEST_LIFETIME_SECONDS)
        if response.result != ResultCode.SUCCESS:
            self._refused(_name(response.result), float(lifetime), now)
        elif not lifetime or not response.external.port or not self._same_family(response):
            self._refused("a mapping that is none", SHORTEST_REFUSAL, now)
        else:
            self._granted(response.external, lifetime, now)

    def unsupported(self, now: float) -> None:
        """The gateway has answered that it speaks NAT-PMP only (RFC 6887 Appendix A)."""
        if self.progress is not Progress.GRANTED:
            self._refused(ResultCode.UNSUPP_VERSION.name, LONGEST_LIFETIME_SECONDS, now)

    def close(self, now: float) -> None:
        """Delete the mapping and stop."""
        if self.mapping is not None or self.progress is Progress.ASKING:
            # RFC 6887 Section 15: both the suggested port and address are zero.
            self._send(0, Address("::" if self.base.is_ipv6 else "0.0.0.0", 0), now)  # noqa: S104
        self._timers.clear()

    # ------------------------------------------------------------------------- engine

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            if timer is _Timer.EXPIRE:
                self.mapping = None
                self._wait, self._unanswered = IRT, 0
                self._move(Progress.ASKING)
            self._ask(now)

    def next_timeout(self) -> float | None:
        return self._timers.next()

    def outputs(self) -> Iterator[ClientOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # ------------------------------------------------------------------------- inside

    def _ask(self, now: float) -> None:
        """Send, and arm the next time: as Section 8.1.1 says, or 11.2.1 for a renewal."""
        if self._unanswered >= SILENT_AFTER and self.mapping is None:
            self._move(Progress.SILENT)
        unspecified = "::" if self.base.is_ipv6 else "0.0.0.0"  # noqa: S104  no socket's address
        wished = Address(unspecified, self.base.port)
        self._send(LIFETIME_SECONDS, self.mapping.external if self.mapping else wished, now)
        self._unanswered += 1
        if self.mapping is not None and not self._in_doubt:
            self._renew_later(self._expires_at - now, now)
            return
        wait = self._wait * (1 + 0.1 * (2 * self._unsigned() - 1))
        self._wait = min(2 * self._wait, MRT)
        self._timers.arm(_Timer.SEND, now + wait)

    def _renew_later(self, left_seconds: float, now: float) -> None:
        """RFC 6887 Section 11.2.1: at 1/2 to 5/8 of the lifetime, unanswered again at 3/4 to 3/4 +
        1/16, and so on."""
        part = 1 / 2 + self._unsigned() / 8
        self._timers.arm(_Timer.SEND, now + max(RENEWAL_GAP, left_seconds * part))

    def _send(self, lifetime_seconds: int, suggested: Address, now: float) -> None:
        self._sent_at = now
        request = MapRequest(
            self.base.host, self._nonce, self.base.port, lifetime_seconds, suggested
        )
        payload = encode_map_request(request)
        self._outputs.append(Transmit(Datagram(self.base, self.gateway, payload)))

    def _granted(self, external: Address, lifetime_seconds: int, now: float) -> None:
        mapping = PortMapping(
            self.protocol, self.base, self.gateway.host, external, lifetime_seconds
        )
        changed = self.mapping is None or self.mapping.external != external
        self.mapping = mapping
        self._unanswered, self._wait, self._in_doubt = 0, IRT, False
        self._expires_at = now + lifetime_seconds
        self._renew_later(lifetime_seconds, now)
        self._timers.arm(_Timer.EXPIRE, self._expires_at)
        self._move(Progress.GRANTED, changed=changed)

    def _refused(self, why: str, seconds: float, now: float) -> None:
        had = self.mapping is not None
        self.mapping = None
        self._wait, self._unanswered = IRT, 0
        self._timers.disarm(_Timer.EXPIRE)
        self._timers.arm(_Timer.SEND, now + max(seconds, SHORTEST_REFUSAL))
        self._move(Progress.REFUSED, why, changed=had)

    def _same_family(self, response: MapResponse) -> bool:
        return response.external.is_ipv6 == self.base.is_ipv6

    def _move(self, progress: Progress, detail: str = "", *, changed: bool = False) -> None:
        if changed or (progress, detail) != (self.progress, self.detail):
            self.progress, self.detail = progress, detail
            self._outputs.append(Changed())

    def _unsigned(self) -> float:
        return self._random(1)[0] / 256


def _name(result: int) -> str:
    with contextlib.suppress(ValueError):
        return ResultCode(result).name
    return f"result {result}"

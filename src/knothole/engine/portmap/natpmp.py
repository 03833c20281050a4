"""A NAT-PMP client for one UDP socket and one gateway (RFC 6886)."""

from __future__ import annotations

import contextlib
import enum
from collections import deque
from collections.abc import Iterator
from typing import Final

from knothole.engine.core import Datagram, Timers, Transmit
from knothole.engine.portmap.events import Changed, ClientOutput, GatewayAged
from knothole.engine.portmap.mapping import (
    LIFETIME_SECONDS,
    LONGEST_LIFETIME_SECONDS,
    MappingProtocol,
    PortMapping,
    Progress,
)
from knothole.wire.address import Address
from knothole.wire.portmap.natpmp import (
    AddressResponse,
    MapResponse,
    NatPmpResponse,
    Opcode,
    Refusal,
    ResultCode,
    encode_address_request,
    encode_map_request,
)

FIRST_WAIT: Final = 0.25  # RFC 6886 Section 3.1: "250 ms", and doubling
ATTEMPTS: Final = 9  # RFC 6886 Section 3.1: after the ninth the gateway does not speak it
ASK_GAP: Final = 4.0  # ours, as PCP has it: who makes us ask makes us ask slowly
REFUSED_SECONDS: Final = 300.0
"""Ours: a refusal has no lifetime in NAT-PMP. Its commonest cause, a line that is down, ends."""


class _Timer(enum.Enum):
    SEND = enum.auto()
    EXPIRE = enum.auto()


class NatPmpClient:
    """Asks, renews and deletes one mapping (an :class:`~knothole.engine.core.Engine`).

    First the external address, then the mapping: RFC 6886 Section 3.1 wants one request at a
    time. Only what was asked for is taken for an answer, there is no nonce.
    """

    protocol: Final = MappingProtocol.NAT_PMP

    def __init__(self, base: Address, gateway: Address, now: float) -> None:
        self.base = base
        self.gateway = gateway
        self.mapping: PortMapping | None = None
        self.progress = Progress.ASKING
        self.detail = ""
        self._asked: Opcode | None = None
        self._host = ""
        self._attempts = 0
        self._sent_at = now
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[ClientOutput] = deque()
        self._ask(Opcode.EXTERNAL_ADDRESS, now)

    # ------------------------------------------------------------------------ commands

    def ask_again(self, now: float) -> None:
        """The gateway may have forgotten: ask, but not twice within four seconds."""
        self._asked = None
        self._timers.arm(_Timer.SEND, max(now, self._sent_at + ASK_GAP))
        if self.progress is not Progress.GRANTED:
            self._move(Progress.ASKING)

    def answered(self, response: NatPmpResponse, now: float) -> None:
        """A decoded answer from the gateway's address. What was not asked for changes nothing."""
        match response:
            case AddressResponse() if self._asked is Opcode.EXTERNAL_ADDRESS:
                self._outputs.append(GatewayAged(response.epoch_seconds))
                self._host = response.host
                self._ask(Opcode.MAP_UDP, now)
            case MapResponse() if (
                self._asked is Opcode.MAP_UDP and response.internal_port == self.base.port
            ):
                self._outputs.append(GatewayAged(response.epoch_seconds))
                self._mapped(response, now)
            case Refusal(opcode, result) if (
                # That is meant for PCP's request, which has the same opcode.
                opcode == self._asked and result != ResultCode.UNSUPPORTED_VERSION
            ):
                self._refused(_name(result), now)
            case _:
                pass

    def close(self, now: float) -> None:
        """Delete the mapping and stop."""
        if self.mapping is not None or self._asked is Opcode.MAP_UDP:
            self._send(encode_map_request(self.base.port, 0, 0), now)  # RFC 6886 Section 3.4
        self._asked = None
        self._timers.clear()

    # ------------------------------------------------------------------------- engine

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.EXPIRE:
                    self.mapping = None
                    self._move(Progress.ASKING, changed=True)
                    self._ask(Opcode.EXTERNAL_ADDRESS, now)
                case _Timer.SEND if self._asked is None:
                    self._ask(Opcode.EXTERNAL_ADDRESS, now)
                case _Timer.SEND if self._attempts < ATTEMPTS:
                    self._repeat(now)
                case _Timer.SEND:
                    self._asked = None  # a mapping that there is lives on until it expires
                    if self.mapping is None:
                        self._move(Progress.SILENT)

    def next_timeout(self) -> float | None:
        return self._timers.next()

    def outputs(self) -> Iterator[ClientOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # ------------------------------------------------------------------------- inside

    def _ask(self, opcode: Opcode, now: float) -> None:
        self._asked = opcode
        self._attempts = 0
        self._repeat(now)

    def _repeat(self, now: float) -> None:
        if self._asked is Opcode.EXTERNAL_ADDRESS:
            self._send(encode_address_request(), now)
        else:
            wished = self.mapping.external.port if self.mapping else self.base.port
            self._send(encode_map_request(self.base.port, wished, LIFETIME_SECONDS), now)
        self._timers.arm(_Timer.SEND, now + FIRST_WAIT * 2**self._attempts)
        self._attempts += 1

    def _send(self, payload: bytes, now: float) -> None:
        self._sent_at = now
        self._outputs.append(Transmit(Datagram(self.base, self.gateway, payload)))

    def _mapped(self, response: MapResponse, now: float) -> None:
        self._asked = None
        lifetime = min(response.lifetime_seconds, LONGEST_LIFETIME_SECONDS)
        if not lifetime or not response.external_port:
            self._refused("a mapping that is none", now)
            return
        external = Address(self._host, response.external_port)
        changed = self.mapping is None or self.mapping.external != external
        self.mapping = PortMapping(self.protocol, self.base, self.gateway.host, external, lifetime)
        # RFC 6886 Section 3.3: "SHOULD begin trying to renew the mapping halfway to expiry time".
        self._timers.arm(_Timer.SEND, now + max(ASK_GAP, lifetime / 2))
        self._timers.arm(_Timer.EXPIRE, now + lifetime)
        self._move(Progress.GRANTED, changed=changed)

    def _refused(self, why: str, now: float) -> None:
        had = self.mapping is not None
        self.mapping = None
        self._asked = None
        self._timers.disarm(_Timer.EXPIRE)
        self._timers.arm(_Timer.SEND, now + REFUSED_SECONDS)
        self._move(Progress.REFUSED, why, changed=had)

    def _move(self, progress: Progress, detail: str = "", *, changed: bool = False) -> None:
        if changed or (progress, detail) != (self.progress, self.detail):
            self.progress, self.detail = progress, detail
            self._outputs.append(Changed())


def _name(result: int) -> str:
    with contextlib.suppress(ValueError):
        return ResultCode(result).name
    return f"result {result}"

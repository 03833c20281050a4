"""What an Allocate request asks for (RFC 8656 Section 7.2, checks 3 to 9)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from knothole.engine.turn.answer import REASONS, Refusal
from knothole.wire.stun import (
    AdditionalAddressFamily,
    AddressErrorCode,
    AddressFamily,
    DontFragment,
    DraftAdditionalAddressFamily,
    EvenPort,
    Lifetime,
    Message,
    MobilityTicket,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    UnknownAttributes,
)

UDP: Final = 17  # RFC 8656 Section 18.8: "only allows the use of code point 17"
TCP: Final = 6  # RFC 6062 Section 4.1


@dataclass(frozen=True, slots=True)
class AllocateRequest:
    """A well-formed wish for a relayed address.

    One address of each of ``families`` is wanted, or with a ``token`` the one reserved under it.
    ``reserve`` wants an even port and the next one kept. ``missing`` says what part of the wish
    cannot be met. ``is_mobile``: a ticket is wanted (RFC 8016).
    """

    families: tuple[AddressFamily, ...]
    token: bytes | None
    even_port: bool
    reserve: bool
    lifetime: int | None
    missing: tuple[AddressErrorCode, ...]
    is_tcp: bool = False
    is_mobile: bool = False

    @property
    def count(self) -> int:
        """How many relayed addresses it takes."""
        return len(self.families) + self.reserve

    def without(self, family: AddressFamily) -> AllocateRequest:
        """The same when there is no room for an address of ``family``."""
        left = tuple(each for each in self.families if each is not family)
        return replace(self, families=left, missing=(*self.missing, lacking(family, 508)))


def read_allocate(
    message: Message,
    families: Collection[AddressFamily],
    *,
    by_stream: bool = False,
    mobility: bool = False,
    dont_fragment: bool = False,
) -> AllocateRequest:
    """What ``message`` asks of a server that relays on ``families``, and can do this or not.

    ``by_stream`` says that it came by TCP or TLS. Raises Refusal: 400, 405, 420, 440 or 442.
    """
    transport = message.get(RequestedTransport)
    if transport is None:
        raise Refusal(400)
    is_tcp = transport.protocol == TCP
    if transport.protocol != UDP and not is_tcp:
        raise Refusal(442)
    if is_tcp and not (by_stream and _suits_tcp(message)):
        raise Refusal(400)
    if message.get(DontFragment) is not None and not dont_fragment:  # check 4
        raise Refusal(420, UnknownAttributes((DontFragment.TYPE,)))
    token, even_port = message.get(ReservationToken), message.get(EvenPort)
    requested = message.get(RequestedAddressFamily)
    additional = _additional_family(message)
    if token is not None and any(each is not None for each in (even_port, requested, additional)):
        raise Refusal(400)
    if requested is not None and additional is not None:
        raise Refusal(400)
    family = AddressFamily.IPV4
    if requested is not None:
        try:
            family = AddressFamily(requested.family)
        except ValueError:
            raise Refusal(440) from None
    if token is None and family not in families:
        raise Refusal(440)
    reserve = even_port is not None and even_port.reserve
    more, missing = _additional(additional, reserve, families)
    lifetime = message.get(Lifetime)
    return AllocateRequest(
        (family, *more),
        None if token is None else token.value,
        even_port is not None,
        reserve,
        None if lifetime is None else lifetime.seconds,
        missing,
        is_tcp,
        _is_mobile(message, mobility) and not is_tcp,
    )


def _suits_tcp(message: Message) -> bool:
    """RFC 6062 Section 5.1: what a TCP allocation cannot have must not be asked for."""
    return not any(map(message.get, (DontFragment, EvenPort, ReservationToken)))


def _is_mobile(message: Message, mobility: bool) -> bool:
    """RFC 8016 Section 3.1.2: an empty MOBILITY-TICKET asks for one."""
    ticket = message.get(MobilityTicket)
    if ticket is None:
        return False
    if ticket.value:
        raise Refusal(400)
    if not mobility:
        raise Refusal(405)
    return True


def lacking(family: AddressFamily, code: int) -> AddressErrorCode:
    """What says that a dual allocation has no address of ``family``, and why."""
    return AddressErrorCode(family, code, REASONS[code])


def _additional_family(message: Message) -> AdditionalAddressFamily | None:
    found = message.get(AdditionalAddressFamily)
    as_coturn = message.get(DraftAdditionalAddressFamily)
    if found is None and as_coturn is not None:
        return AdditionalAddressFamily(as_coturn.family)
    return found


def _additional(
    additional: AdditionalAddressFamily | None, reserve: bool, families: Collection[AddressFamily]
) -> tuple[tuple[AddressFamily, ...], tuple[AddressErrorCode, ...]]:
    """Checks 8 and 9: the other family that is wanted, or why there is no address of it."""
    if additional is None:
        return (), ()
    if reserve or additional.family != AddressFamily.IPV6:
        raise Refusal(400)
    if AddressFamily.IPV6 not in families:
        return (), (lacking(AddressFamily.IPV6, 440),)
    return (AddressFamily.IPV6,), ()

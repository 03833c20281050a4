"""STUN messages as values, and their bytes (RFC 8489 Sections 5, 6.3 and 14)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final, TypeVar

from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun import attributes as rfc8489
from knothole.wire.stun import discovery_attributes as rfc5780
from knothole.wire.stun import extension_attributes as extensions
from knothole.wire.stun import ice_attributes as rfc8445
from knothole.wire.stun import turn_attributes as rfc8656
from knothole.wire.stun.attribute import Attribute
from knothole.wire.stun.attributes import UnknownAttribute
from knothole.wire.stun.integrity import (
    INTEGRITY_SHA256_LEAST,
    INTEGRITY_SHA256_SIZE,
    INTEGRITY_SIZE,
    attribute_size,
    integrity_matches,
    integrity_of,
    text_before,
)
from knothole.wire.stun.integrity import (
    fingerprint as fingerprint_of,
)

MAGIC_COOKIE: Final = 0x2112A442  # RFC 8489 Section 5
HEADER_SIZE: Final = 20
TRANSACTION_ID_SIZE: Final = 12
CLASSIC_TRANSACTION_ID_SIZE: Final = 16  # RFC 3489 Section 11.1

_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
_HEAD = struct.Struct("!HH")
_UINT32 = struct.Struct("!I")

_MESSAGE_INTEGRITY = 0x0008
_MESSAGE_INTEGRITY_SHA256 = 0x001C
_FINGERPRINT = 0x8028

_INTEGRITY_HEAD = _HEAD.pack(_MESSAGE_INTEGRITY, INTEGRITY_SIZE)
_INTEGRITY_SHA256_HEAD = _HEAD.pack(_MESSAGE_INTEGRITY_SHA256, INTEGRITY_SHA256_SIZE)
_FINGERPRINT_HEAD = _HEAD.pack(_FINGERPRINT, 4)
_PADDING = tuple(bytes(-size & 3) for size in range(4))


class MessageClass(enum.IntEnum):
    """RFC 8489 Section 5."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Method(enum.IntEnum):
    """RFC 8489 Section 18.2, RFC 8656 Section 17, RFC 6062 Section 6.1."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009
    CONNECT = 0x00A
    CONNECTION_BIND = 0x00B
    CONNECTION_ATTEMPT = 0x00C


AttributeT = TypeVar("AttributeT", bound=Attribute)


@dataclass(frozen=True, slots=True)
class Message:
    """One STUN message.

    ``attributes`` leaves out MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT: encoding
    makes them, and a decoded message answers for them by its properties. In a decoded message
    duplicates and what stood after the integrity are gone (RFC 8489 Sections 14, 14.5).
    ``transaction_id`` has 12 bytes, or 16 when ``cookie`` is False, which is RFC 3489.
    """

    message_class: MessageClass
    method: int
    transaction_id: bytes
    attributes: tuple[Attribute, ...] = ()
    cookie: bool = True
    raw: bytes = field(default=b"", compare=False, repr=False)
    integrity_at: int = field(default=0, compare=False, repr=False)
    integrity_sha256_at: int = field(default=0, compare=False, repr=False)
    has_fingerprint: bool = field(default=False, compare=False, repr=False)

    def get(self, kind: type[AttributeT]) -> AttributeT | None:
        """The first attribute of that kind."""
        for attribute in self.attributes:
            if type(attribute) is kind:
                return attribute
        return None

    def get_all(self, kind: type[AttributeT]) -> tuple[AttributeT, ...]:
        """Every attribute of that kind: more than one only where the standard means a list."""
        return tuple(each for each in self.attributes if type(each) is kind)

    @property
    def unknown_required(self) -> tuple[int, ...]:
        """Types that must be understood and are not, in order: a 420 is due when there are any."""
        return tuple(
            each.type
            for each in self.attributes
            if isinstance(each, UnknownAttribute) and each.required
        )

    @property
    def has_integrity(self) -> bool:
        """Whether it came with MESSAGE-INTEGRITY, right or wrong."""
        return self.integrity_at > 0

    @property
    def has_integrity_sha256(self) -> bool:
        """Whether it came with MESSAGE-INTEGRITY-SHA256, right or wrong."""
        return self.integrity_sha256_at > 0


def looks_like_stun(data: bytes) -> bool:
    """Whether header and length are those of one RFC 8489 message; the attributes may be wrong."""
    return (
        len(data) >= HEADER_SIZE
        and data[0] < 0x40
        and data[4:8] == _COOKIE
        and (data[2] << 8 | data[3]) == len(data) - HEADER_SIZE
        and not len(data) & 3
    )


def decode(data: bytes, *, classic: bool = False) -> Message:
    """The message in ``data``, which it must fill.

    ``classic`` admits RFC 3489 messages too, which carry no magic cookie. A FINGERPRINT is checked,
    integrity is not: that takes a key (:func:`verify_integrity`).

    Raises MalformedMessage for everything that is not a STUN message, for a wrong FINGERPRINT, and
    for a comprehension-required attribute whose value cannot be read. An optional one of that kind
    becomes an UnknownAttribute and is thereby ignored.
    """
    size = len(data)
    if size < HEADER_SIZE or size & 3:
        raise MalformedMessage(f"{size} bytes are not a STUN message")
    message_type, length = _HEAD.unpack_from(data)
    if message_type & 0xC000 or length != size - HEADER_SIZE:
        raise MalformedMessage("not a STUN message header")
    cookie = data[4:8] == _COOKIE
    if not cookie and not classic:
        raise MalformedMessage("no magic cookie")
    mask = data[4:20]
    attributes: list[Attribute] = []
    seen: set[int] = set()
    integrity_at = integrity_sha256_at = 0
    has_fingerprint = False
    at = HEADER_SIZE
    while at < size:
        kind, length = _HEAD.unpack_from(data, at)
        start = at + 4
        end = start + length
        if end > size:
            raise MalformedMessage(f"attribute {kind:#06x} is cut off")
        if kind == _FINGERPRINT:
            if length != 4 or end != size:
                raise MalformedMessage("FINGERPRINT is not the last attribute")
            if _UINT32.unpack_from(data, start)[0] != fingerprint_of(text_before(data, at)):
                raise MalformedMessage("FINGERPRINT does not match")
            has_fingerprint = True
        elif integrity_sha256_at:
            pass  # RFC 8489 Section 14.6: only FINGERPRINT counts after it
        elif kind == _MESSAGE_INTEGRITY_SHA256:
            if length & 3 or not INTEGRITY_SHA256_LEAST <= length <= INTEGRITY_SHA256_SIZE:
                raise MalformedMessage(f"MESSAGE-INTEGRITY-SHA256 of {length} bytes")
            integrity_sha256_at = at
        elif integrity_at:
            pass  # RFC 8489 Section 14.5: only the SHA-256 one and FINGERPRINT count after it
        elif kind == _MESSAGE_INTEGRITY:
            if length != INTEGRITY_SIZE:
                raise MalformedMessage(f"MESSAGE-INTEGRITY of {length} bytes")
            integrity_at = at
        elif kind not in seen or kind in _LISTED:
            seen.add(kind)
            attributes.append(_decode_attribute(kind, data[start:end], mask))
        at = end + (-length & 3)
    return Message(
        _CLASSES[(message_type >> 7 & 2) | (message_type >> 4 & 1)],
        (message_type >> 2 & 0xF80) | (message_type >> 1 & 0x70) | (message_type & 0x0F),
        data[8:20] if cookie else mask,
        tuple(attributes),
        cookie,
        data,
        integrity_at,
        integrity_sha256_at,
        has_fingerprint,
    )


def encode(
    message: Message,
    *,
    key: bytes | None = None,
    sha256_key: bytes | None = None,
    fingerprint: bool = False,
) -> bytes:
    """The bytes of ``message``: its attributes in their order, then MESSAGE-INTEGRITY when there is
    a ``key``, MESSAGE-INTEGRITY-SHA256 when there is a ``sha256_key``, and FINGERPRINT on demand.

    Raises ValueError for what no message can hold.
    """
    return encode_parts(
        message.message_class,
        message.method,
        message.transaction_id,
        message.attributes,
        cookie=message.cookie,
        key=key,
        sha256_key=sha256_key,
        fingerprint=fingerprint,
    )


def encode_parts(
    message_class: MessageClass,
    method: int,
    transaction_id: bytes,
    attributes: tuple[Attribute, ...],
    *,
    cookie: bool = True,
    key: bytes | None = None,
    sha256_key: bytes | None = None,
    fingerprint: bool = False,
) -> bytes:
    """The same of a message that nobody else wants to see, so that there is none."""
    if not 0 <= method <= 0xFFF:
        raise ValueError(f"{method} is not a STUN method")
    size = TRANSACTION_ID_SIZE if cookie else CLASSIC_TRANSACTION_ID_SIZE
    if len(transaction_id) != size:
        raise ValueError(f"a transaction ID of {len(transaction_id)} bytes, not {size}")
    mask = _COOKIE + transaction_id if cookie else transaction_id
    parts = [mask]
    length = 0
    for attribute in attributes:
        value = attribute.encode(mask)
        kind = attribute.type if isinstance(attribute, UnknownAttribute) else attribute.TYPE
        size = len(value)
        if size > 0xFFFF:
            raise ValueError(f"attribute {kind:#06x} of {size} bytes")
        parts += (_HEAD.pack(kind, size), value, _PADDING[size & 3])
        length += 4 + size + (-size & 3)
    if length > 0xFF00:
        raise ValueError(f"a message of {length} bytes")
    message_type = (
        (method & 0xF80) << 2
        | (method & 0x70) << 1
        | method & 0x0F
        | (message_class & 2) << 7
        | (message_class & 1) << 4
    )
    rest = b"".join(parts)
    # The length in the header is always as if the message ended with the attribute that is made.
    if key is not None:
        length += 4 + INTEGRITY_SIZE
        rest += _INTEGRITY_HEAD + integrity_of(_HEAD.pack(message_type, length) + rest, key)
    if sha256_key is not None:
        length += 4 + INTEGRITY_SHA256_SIZE
        text = _HEAD.pack(message_type, length) + rest
        rest += _INTEGRITY_SHA256_HEAD + integrity_of(text, sha256_key, sha256=True)
    if fingerprint:
        length += 8
        value = _UINT32.pack(fingerprint_of(_HEAD.pack(message_type, length) + rest))
        rest += _FINGERPRINT_HEAD + value
    return _HEAD.pack(message_type, length) + rest


def verify_integrity(message: Message, key: bytes) -> bool:
    """Whether a decoded message carries the MESSAGE-INTEGRITY of ``key``; constant time."""
    at = message.integrity_at
    return at > 0 and integrity_matches(message.raw, at, key)


def verify_integrity_sha256(
    message: Message, key: bytes, *, least_size: int = INTEGRITY_SHA256_SIZE
) -> bool:
    """Whether a decoded message carries the MESSAGE-INTEGRITY-SHA256 of ``key``; constant time.

    A truncated one counts only when the usage allows it (RFC 8489 Section 14.6), by a
    ``least_size`` of 16 bytes or more.
    """
    at = message.integrity_sha256_at
    if at == 0:
        return False
    if attribute_size(message.raw, at) < max(least_size, INTEGRITY_SHA256_LEAST):
        return False
    return integrity_matches(message.raw, at, key, sha256=True)


def _decode_attribute(kind: int, value: bytes, mask: bytes) -> Attribute:
    known = _KINDS.get(kind)
    if known is None:
        return UnknownAttribute(kind, value)
    try:
        return known.decode(value, mask)
    except (ValueError, struct.error) as error:
        if kind < 0x8000:
            raise MalformedMessage(f"attribute {kind:#06x} cannot be read: {error}") from error
        return UnknownAttribute(kind, value)


_CLASSES = tuple(MessageClass)

_KINDS: dict[int, type[Attribute]] = {
    kind.TYPE: kind
    for room in (rfc8489, rfc5780, rfc8445, rfc8656, extensions)
    for kind in vars(room).values()
    if isinstance(kind, type) and issubclass(kind, Attribute) and hasattr(kind, "TYPE")
}

# RFC 8656 Sections 7.2, 9.1: one for each family, one for each peer.
_LISTED = frozenset(
    (
        rfc8656.XorPeerAddress.TYPE,
        rfc8656.XorRelayedAddress.TYPE,
        rfc8656.AddressErrorCode.TYPE,
    )
)

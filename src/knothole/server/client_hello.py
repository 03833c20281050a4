"""What a TLS client wants to speak, read from its ClientHello without taking a byte from it.

The listener looks (MSG_PEEK) before it decides which process gets the connection, so this reads
hostile bytes: it answers None for "not whole yet" and raises one error for anything else.
"""

from __future__ import annotations

import struct
from typing import Final

HANDSHAKE_RECORD: Final = 22  # RFC 8446 Section 5.1: ContentType handshake
CLIENT_HELLO: Final = 1  # RFC 8446 Section 4
ALPN_EXTENSION: Final = 16  # RFC 7301 Section 3.1
MAX_RECORD: Final = 16_384  # RFC 8446 Section 5.1: 2^14


class NotClientHello(ValueError):
    """The bytes do not start a TLS handshake that we understand."""


def application_protocols(data: bytes) -> tuple[str, ...] | None:
    """The ALPN names offered in the ClientHello at the start of ``data``, in their order.

    Returns None while the first record is not whole yet, an empty tuple when the client offers
    none, or spreads its ClientHello over several records so that we do not see them. Raises
    NotClientHello for bytes that no TLS 1.2 or 1.3 client sends.
    """
    if len(data) < 5:
        if data and data[0] != HANDSHAKE_RECORD:
            raise NotClientHello("not a TLS handshake record")
        return None
    kind, major, _minor, length = struct.unpack_from("!BBBH", data)
    if kind != HANDSHAKE_RECORD or major != 3 or not 4 <= length <= MAX_RECORD:
        raise NotClientHello("not a TLS handshake record")
    if len(data) < 5 + length:
        return None
    try:
        return _protocols(data[5 : 5 + length])
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise NotClientHello("truncated ClientHello") from error


def _protocols(hello: bytes) -> tuple[str, ...]:
    if hello[0] != CLIENT_HELLO:
        raise NotClientHello("not a ClientHello")
    if int.from_bytes(hello[1:4], "big") > len(hello) - 4:
        return ()
    at = 4 + 2 + 32  # handshake header, legacy_version, random
    at += 1 + hello[at]  # legacy_session_id
    at += 2 + struct.unpack_from("!H", hello, at)[0]  # cipher_suites
    at += 1 + hello[at]  # legacy_compression_methods
    if at >= len(hello):
        return ()
    end = at + 2 + struct.unpack_from("!H", hello, at)[0]
    at += 2
    while at + 4 <= min(end, len(hello)):
        extension, size = struct.unpack_from("!HH", hello, at)
        at += 4
        if extension == ALPN_EXTENSION:
            return tuple(_names(hello[at : at + size]))
        at += size
    return ()


def _names(extension: bytes) -> list[str]:
    names, at = [], 2
    while at < len(extension):
        size = extension[at]
        names.append(extension[at + 1 : at + 1 + size].decode("ascii"))
        at += 1 + size
    return names

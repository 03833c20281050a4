"""What TURN puts on a line besides STUN: ChannelData, and messages on a stream (RFC 8656)."""

from __future__ import annotations

from typing import Final

from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun.message import HEADER_SIZE, MAGIC_COOKIE

FIRST_CHANNEL: Final = 0x4000  # RFC 8656 Section 12: "0x4000 through 0x4FFF"
LAST_CHANNEL: Final = 0x4FFF
LAST_OLD_CHANNEL: Final = 0x7FFF  # RFC 5766 Section 11: "0x4000 through 0x7FFF"
CHANNEL_HEADER_SIZE: Final = 4

_CONNECTION_BIND = b"\x00\x0b"  # RFC 6062 Section 6.1: a request with method 0x000B
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")


def encode_channel_data(number: int, payload: bytes, padded: bool) -> bytes:
    """The ChannelData message for ``payload``; ``padded`` to four bytes, as streams need it.

    Raises ValueError for a number that no channel has, or a payload over 65535 bytes.
    """
    if not FIRST_CHANNEL <= number <= LAST_CHANNEL:
        raise ValueError(f"{number:#06x} is not a channel number (0x4000-0x4fff)")
    size = len(payload)
    if size > 0xFFFF:
        raise ValueError(f"a payload of {size} bytes")
    head = (number << 16 | size).to_bytes(4, "big")
    return head + payload + bytes(-size & 3) if padded else head + payload


def decode_channel_data(data: bytes) -> tuple[int, bytes]:
    """Channel number and payload of one ChannelData message, padded or not.

    Raises MalformedMessage (RFC 8656 Section 12.4: reserved numbers and short messages).
    """
    if len(data) < CHANNEL_HEADER_SIZE or data[0] >> 4 != FIRST_CHANNEL >> 12:
        raise MalformedMessage("not a ChannelData message")
    end = CHANNEL_HEADER_SIZE + (data[2] << 8 | data[3])
    # RFC 8656 Section 12.5: over UDP "the padding is not required but MAY be included".
    if not end <= len(data) <= end + 3:
        raise MalformedMessage("a ChannelData message of another length than it says")
    return data[0] << 8 | data[1], data[CHANNEL_HEADER_SIZE:end]


def begins_channel_data(first_byte: int) -> bool:
    """Whether a server takes what begins so for ChannelData: 0x40 to 0x7F, as in RFC 5766.

    RFC 8656 keeps 0x50 and above from clients whose socket carries DTLS-SRTP too; nothing else
    that comes to a server begins so.
    """
    return first_byte >> 6 == 1


class StreamFramer:
    """Cuts a TCP or TLS stream into STUN and ChannelData messages (RFC 8656 Section 12.5).

    ChannelData with a number of RFC 5766 is ChannelData too. Holds at most one unfinished message,
    64 KiB. With ``stops_at_bind`` what is behind a ConnectionBind request stays uncut, for it may
    be data (RFC 6062 Section 5.4): go on with :meth:`feed`, or take it by :meth:`rest`.
    """

    def __init__(self, *, stops_at_bind: bool = False) -> None:
        self._buffer = bytearray()
        self._stops_at_bind = stops_at_bind
        self.has_stopped = False
        """Whether the last message was such a request."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes, ChannelData without its padding.

        Raises MalformedMessage, then and ever after, when the stream carries something else:
        there is no finding the next message in it, the connection is to be closed.
        """
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        at = 0
        self.has_stopped = False
        while len(buffer) - at >= CHANNEL_HEADER_SIZE:
            size, padding = _size_at(buffer, at)
            if len(buffer) - at < size + padding:
                break
            messages.append(bytes(buffer[at : at + size]))
            at += size + padding
            if self._stops_at_bind and messages[-1].startswith(_CONNECTION_BIND):
                self.has_stopped = True
                break
        del buffer[:at]
        return messages

    def rest(self) -> bytes:
        """What was fed and not cut yet; it is not kept any more."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def _size_at(buffer: bytearray, at: int) -> tuple[int, int]:
    first, length = buffer[at], buffer[at + 2] << 8 | buffer[at + 3]
    if first < 0x40:
        if length & 3 or not _COOKIE.startswith(buffer[at + 4 : at + 8]):
            raise MalformedMessage("neither STUN nor ChannelData on the stream")
        return HEADER_SIZE + length, 0
    if begins_channel_data(first):
        return CHANNEL_HEADER_SIZE + length, -length & 3
    raise MalformedMessage("neither STUN nor ChannelData on the stream")

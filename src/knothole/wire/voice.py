"""The packets of a call: speech, receiver reports and the end (docs/protocol/voice.md).

They travel as datagrams of a line, which is encrypted and authenticated and belongs to one call:
so they carry no key, no source id and no call id.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.wire.malformed import MalformedMessage

VERSION: Final = 1
SAMPLE_RATE: Final = 48_000  # timestamps count samples at this rate, as in RFC 7587 Section 4.1
FRAME_SAMPLES: Final = 960  # 20 ms, the default of RFC 7587 Section 6.1 (ptime)
FRAME_SECONDS: Final = FRAME_SAMPLES / SAMPLE_RATE
MEDIA_HEADER_BYTES: Final = 8
SILENT_LEVEL: Final = 127  # RFC 6464 Section 3: -dBov, 127 is digital silence

_MEDIA: Final = struct.Struct("!BBHI")
_REPORT: Final = struct.Struct("!BBBBIIIIIIH")
_END: Final = struct.Struct("!BBBxI")

_MUTED: Final = 0x01
_HAS_ECHO: Final = 0x01
_ACKNOWLEDGES: Final = 0x01


class _Kind(enum.IntEnum):
    MEDIA = 0
    REPORT = 1
    END = 2


class EndReason(enum.IntEnum):
    """Why the sender of an end packet ends the call."""

    HUNG_UP = 0
    SOURCE_ENDED = 1
    """What was to be spoken is spoken: a file came to its end."""
    TROUBLE = 2
    """The sender cannot go on: its sound device failed, its disk is full."""


@dataclass(frozen=True, slots=True)
class MediaPacket:
    """One frame of 20 ms, or the news that the sender is muted.

    ``sequence`` (16 bits) grows by one a packet, ``timestamp`` (32 bits) by one a sample; both
    wrap. ``payload`` is one Opus packet of 20 ms; it is empty when, and only when, the sender is
    muted from ``timestamp`` on.
    """

    sequence: int
    timestamp: int
    payload: bytes

    @property
    def muted(self) -> bool:
        return not self.payload


@dataclass(frozen=True, slots=True)
class ReportPacket:
    """How the sender of the report hears the other side.

    The loss counters are those of RFC 3550 Section 6.4.1: ``fraction_lost`` in 256ths since the
    last report, ``lost`` since the start, ``highest_sequence`` extended to 32 bits, ``jitter`` in
    timestamp units. ``level`` is that of RFC 6464. ``sent_at`` is the sender's own clock in
    microseconds (32 bits, wraps); ``echo`` is the ``sent_at`` of the last report it received and
    ``held`` how many microseconds ago that was, so that both sides know the round-trip time;
    ``echo`` is None before any report was received. ``playout_delay`` is what the jitter buffer
    adds, in milliseconds.
    """

    level: int
    fraction_lost: int
    highest_sequence: int
    lost: int
    jitter: int
    sent_at: int
    echo: int | None
    held: int
    playout_delay: int


@dataclass(frozen=True, slots=True)
class EndPacket:
    """The call is over; ``timestamp`` is the first that will not be spoken.

    With ``acknowledges`` it says that the other side's end has been heard.
    """

    reason: EndReason
    timestamp: int
    acknowledges: bool = False


VoicePacket: TypeAlias = MediaPacket | ReportPacket | EndPacket


def encode_voice(packet: VoicePacket) -> bytes:
    """The datagram of ``packet``."""
    match packet:
        case MediaPacket(sequence, timestamp, payload):
            flags = 0 if payload else _MUTED
            return _MEDIA.pack(_first(_Kind.MEDIA), flags, sequence, timestamp) + payload
        case ReportPacket():
            return _REPORT.pack(
                _first(_Kind.REPORT),
                0 if packet.echo is None else _HAS_ECHO,
                packet.level,
                packet.fraction_lost,
                packet.highest_sequence,
                packet.lost,
                packet.jitter,
                packet.sent_at,
                packet.echo or 0,
                packet.held,
                packet.playout_delay,
            )
        case EndPacket(reason, timestamp, acknowledges):
            flags = _ACKNOWLEDGES if acknowledges else 0
            return _END.pack(_first(_Kind.END), flags, reason, timestamp)


def decode_voice(data: bytes) -> VoicePacket:
    """The packet in a datagram.

    Raises MalformedMessage for anything that is not a packet of version 1. Unknown flags and,
    except after an Opus packet, further bytes are left alone: a later minor revision may use them.
    """
    if not data:
        raise MalformedMessage("an empty voice packet")
    if data[0] >> 4 != VERSION:
        raise MalformedMessage(f"a voice packet of version {data[0] >> 4}, not {VERSION}")
    kind = data[0] & 0x0F
    try:
        if kind == _Kind.MEDIA:
            return _decode_media(data)
        if kind == _Kind.REPORT:
            return _decode_report(data)
        if kind == _Kind.END:
            _, flags, reason, timestamp = _END.unpack_from(data)
            known = reason in EndReason.__members__.values()
            return EndPacket(
                EndReason(reason) if known else EndReason.HUNG_UP,
                timestamp,
                bool(flags & _ACKNOWLEDGES),
            )
    except struct.error:
        raise MalformedMessage(f"a voice packet of only {len(data)} bytes") from None
    raise MalformedMessage(f"a voice packet of unknown kind {kind}")


def opus_samples(payload: bytes) -> int:
    """How many samples at 48 kHz an Opus packet holds (RFC 6716 Section 3.1), 0 if malformed."""
    if not payload:
        return 0
    config, code = payload[0] >> 3, payload[0] & 3
    if config < 12:  # SILK: 10, 20, 40, 60 ms
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:  # hybrid: 10, 20 ms
        frame = (480, 960)[config & 1]
    else:  # CELT: 2.5, 5, 10, 20 ms
        frame = (120, 240, 480, 960)[config & 3]
    if code < 3:
        return frame * (1, 2, 2)[code]
    return frame * (payload[1] & 0x3F) if len(payload) > 1 else 0


def _first(kind: _Kind) -> int:
    return VERSION << 4 | kind


def _decode_media(data: bytes) -> MediaPacket:
    _, flags, sequence, timestamp = _MEDIA.unpack_from(data)
    payload = data[MEDIA_HEADER_BYTES:]
    if flags & _MUTED:
        return MediaPacket(sequence, timestamp, b"")
    if opus_samples(payload) != FRAME_SAMPLES:
        raise MalformedMessage("a media packet whose payload is not 20 ms of Opus")
    return MediaPacket(sequence, timestamp, payload)


def _decode_report(data: bytes) -> ReportPacket:
    (
        _,
        flags,
        level,
        fraction_lost,
        highest_sequence,
        lost,
        jitter,
        sent_at,
        echo,
        held,
        playout_delay,
    ) = _REPORT.unpack_from(data)
    return ReportPacket(
        level=min(level, SILENT_LEVEL),
        fraction_lost=fraction_lost,
        highest_sequence=highest_sequence,
        lost=lost,
        jitter=jitter,
        sent_at=sent_at,
        echo=echo if flags & _HAS_ECHO else None,
        held=held,
        playout_delay=playout_delay,
    )

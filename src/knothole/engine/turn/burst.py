"""Bursts of datagrams inside ChannelData: what UDP_SEGMENT sends and UDP_GRO receives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from knothole.wire.turn import CHANNEL_HEADER_SIZE, begins_channel_data

# ARCHITECTURE.md: "<= 64 segments, <= 65,000 bytes".
MAX_SEGMENTS: Final = 64
MAX_BURST: Final = 65_000


def wrap_bursts(prefix: bytes, payload: bytes, segment_size: int) -> Iterator[bytes]:
    """The burst ``payload`` with a ChannelData header before each of its segments.

    ``prefix`` is the channel number in two bytes. The new segments are four bytes longer, so that
    one burst may become two.
    """
    head = prefix + segment_size.to_bytes(2, "big")
    segments = min(MAX_SEGMENTS, MAX_BURST // (segment_size + CHANNEL_HEADER_SIZE)) or 1
    for start in range(0, len(payload), segments * segment_size):
        end = min(start + segments * segment_size, len(payload))
        parts: list[bytes] = []
        for at in range(start, end - segment_size + 1, segment_size):
            parts += (head, payload[at : at + segment_size])
        rest = (end - start) % segment_size
        if rest:
            parts += (prefix, rest.to_bytes(2, "big"), payload[end - rest : end])
        yield b"".join(parts)


def unwrap_burst(payload: bytes, segment_size: int) -> tuple[int, bytes, int] | None:
    """Channel number, payload and segment size of a burst of ChannelData messages.

    None when they do not make one burst again: several channels, other sizes, padding, or
    something that is not ChannelData among them.
    """
    size = segment_size - CHANNEL_HEADER_SIZE
    head = payload[:CHANNEL_HEADER_SIZE]
    if size <= 0 or not begins_channel_data(head[0]) or (head[2] << 8 | head[3]) != size:
        return None
    last = len(payload) - len(payload) % segment_size
    parts = []
    for start in range(0, last, segment_size):
        if payload[start : start + CHANNEL_HEADER_SIZE] != head:
            return None
        parts.append(payload[start + CHANNEL_HEADER_SIZE : start + segment_size])
    if last < len(payload):
        rest = payload[last:]
        if rest[:2] != head[:2] or len(rest) <= CHANNEL_HEADER_SIZE:
            return None
        if (rest[2] << 8 | rest[3]) != len(rest) - CHANNEL_HEADER_SIZE:
            return None
        parts.append(rest[CHANNEL_HEADER_SIZE:])
    return head[0] << 8 | head[1], b"".join(parts), size

"""Datagrams set end to end for segmentation offload, and apart again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

# Linux: UDP_MAX_SEGMENTS was 64 up to 6.8; a UDP payload over IPv4 is at most 65,507 bytes, and
# 65,000 leaves room for a relay's header.
LONGEST_BURST: Final = 65_000
MOST_SEGMENTS: Final = 64


def join_segments(datagrams: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """(payload, segment size) of bursts that hold ``datagrams`` in order.

    In a burst all datagrams have the segment size but the last, which may be shorter. A datagram
    that stands alone has segment size 0, as in :class:`~knothole.engine.core.Datagram`.
    """
    burst: list[bytes] = []
    size = total = 0
    for datagram in datagrams:
        length = len(datagram)
        fits = (
            burst
            and length <= size
            and len(burst[-1]) == size
            and len(burst) < MOST_SEGMENTS
            and total + length <= LONGEST_BURST
        )
        if burst and not fits:
            yield _burst(burst, size)
            burst, total = [], 0
        if not burst:
            size = length
        burst.append(datagram)
        total += length
    if burst:
        yield _burst(burst, size)


def _burst(datagrams: list[bytes], size: int) -> tuple[bytes, int]:
    if len(datagrams) == 1:
        return datagrams[0], 0
    return b"".join(datagrams), size

"""Where datagrams lie between their coming and their going, so that none is copied on its way."""

from __future__ import annotations

from typing import Final

LARGEST_DATAGRAM: Final = 65_535  # bytes; the length field of a UDP header
HEADROOM: Final = 4
"""What there is room for in front of each: the header of a ChannelData message."""

SLOTS: Final = 128  # ours: datagrams of a turn; about half a millisecond of a core
# Room for the largest, as a burst may be one; an odd number of cache lines, so that neighbours do
# not contend for the same ones. Memory that no datagram reaches into is never taken.
STRIDE: Final = 1025 * 64


class Arena:
    """Slots for the datagrams of a turn, one each, ``STRIDE`` bytes apart. Of one event loop."""

    def __init__(self) -> None:
        self.bytes = bytearray(SLOTS * STRIDE)
        self.view = memoryview(self.bytes)
        self.starts = range(HEADROOM, SLOTS * STRIDE, STRIDE)
        """Where the datagram of each slot begins."""
        self.slots = [self.view[start : start + LARGEST_DATAGRAM] for start in self.starts]

    def column(self, number: int, count: int) -> bytearray:
        """Octet ``number`` of the datagrams in the first ``count`` slots."""
        return self.bytes[HEADROOM + number : count * STRIDE : STRIDE]

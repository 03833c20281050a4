"""How much the shortcut program may let pass, for any number of its entries together.

The program counts, we say up to what count. Both stand in memory that kernel and process share, so
that neither asks the other; and each word of it is written by one of them only.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

from knothole.io.bpf.layout import Count

_ALLOWANCE: Final = struct.Struct("=QQQQ")  # packet_limit, byte_limit, packets, bytes
ALLOWANCE_SIZE: Final = _ALLOWANCE.size
_WORDS: Final = ALLOWANCE_SIZE // 8


class Full(Exception):
    """There is no room for another one."""


class Allowances:
    """All that entries may name, by numbers from 1. Before it is allowed nothing passes by one."""

    def __init__(self, descriptor: int, room: int) -> None:
        """Of the map with this descriptor, which has so many elements. Raises OSError."""
        size = -(-room * ALLOWANCE_SIZE // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(descriptor, size)
        self._words = memoryview(self._map).cast("Q")
        self._room = room
        self._made = 1  # 0 is none
        self._free: list[int] = []
        self._given: dict[int, Count] = {}  # the counts when they were last settled

    def take(self) -> int:
        """A number that nobody has, and an allowance of nothing. Raises Full."""
        if self._free:
            number = self._free.pop()
        elif self._made < self._room:
            number = self._made
            self._made += 1
        else:
            raise Full
        self._given[number] = self._counted(number)
        return number

    def give_back(self, number: int) -> None:
        """When no entry names it any more."""
        del self._given[number]
        at = number * _WORDS
        self._words[at] = self._words[at + 1] = 0
        self._free.append(number)

    def used(self, number: int) -> Count:
        """What has passed since it was last settled."""
        given, counted = self._given[number], self._counted(number)
        return Count(counted.packets - given.packets, counted.octets - given.octets)

    def settle(self, number: int) -> Count:
        """What has passed since it was last settled, which is now. The limit stays where it is."""
        used = self.used(number)
        given = self._given[number]
        self._given[number] = Count(given.packets + used.packets, given.octets + used.octets)
        return used

    def allow(self, number: int, packets: int, octets: int) -> None:
        """Let so much pass, counted from when it was last settled."""
        given, at = self._given[number], number * _WORDS
        self._words[at] = given.packets + packets
        self._words[at + 1] = given.octets + octets

    def close(self) -> None:
        """Idempotent."""
        self._words.release()
        self._map.close()

    def _counted(self, number: int) -> Count:
        at = number * _WORDS
        return Count(self._words[at + 2], self._words[at + 3])

"""Received datagrams made into bursts of one kind.

The kernel coalesces whatever one sender sends in one size, and lets a shorter datagram end a burst:
a STUN message may stand behind QUIC packets. An engine looks at the first byte of a burst only, so
here bursts are taken apart where kinds meet, and single datagrams that belong together (no
offload) are set end to end, which spares the engine its fixed costs for each of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Final, TypeAlias

from knothole.engine.secure.bursts import LONGEST_BURST, MOST_SEGMENTS

Source: TypeAlias = Hashable
Received: TypeAlias = tuple[bytes, int, Source]
"""Payload, segment size (0: a single datagram), source in the way of whoever has read it."""

# RFC 9443 Section 3: STUN, ZRTP, DTLS and the like begin below 64; ChannelData and QUIC do not.
_FIRST_OF_PAYLOAD: Final = 0x40


def gather(received: Iterable[Received]) -> Iterator[Received]:
    """The same datagrams in the same order; bursts hold none whose first byte is below 64."""
    run: list[bytes] = []
    total = 0
    source: Source = ("", 0)
    for payload, size, origin in received:
        if size:
            yield from _join(run, source)
            run = []
            yield from _one_kind(payload, size, origin)
            continue
        length = len(payload)
        is_payload = length > 0 and payload[0] >= _FIRST_OF_PAYLOAD
        fits = (
            run
            and is_payload
            and origin == source
            and len(run[-1]) == len(run[0]) >= length
            and len(run) < MOST_SEGMENTS
            and total + length <= LONGEST_BURST
        )
        if not fits:
            yield from _join(run, source)
            run, total, source = [], 0, origin
        if is_payload:
            run.append(payload)
            total += length
        else:
            yield payload, 0, origin
    yield from _join(run, source)


def _join(run: list[bytes], source: Source) -> Iterator[Received]:
    if len(run) == 1:
        yield run[0], 0, source
    elif run:
        yield b"".join(run), len(run[0]), source


def _one_kind(payload: bytes, size: int, source: Source) -> Iterator[Received]:
    if min(payload[::size]) >= _FIRST_OF_PAYLOAD:  # the first byte of every segment
        yield payload, size, source
        return
    for start in range(0, len(payload), size):
        yield payload[start : start + size], 0, source

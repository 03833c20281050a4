"""Datagrams on a connection, each after two bytes with its length (RFC 4571 Section 2)."""

from __future__ import annotations

from typing import Final

LENGTH_BYTES: Final = 2
LONGEST: Final = 0xFFFF


def frame(payload: bytes) -> bytes:
    """``payload`` as it goes onto a connection. Raises ValueError beyond 65535 bytes."""
    if len(payload) > LONGEST:
        raise ValueError(f"a datagram of {len(payload)} bytes")
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


class Unframer:
    """Cuts what comes on a connection into datagrams. Any bytes are some datagrams.

    Holds at most one unfinished datagram, 64 KiB.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The datagrams that ``data`` completes. Empty ones, which RFC 4571 Section 2 allows and
        which say nothing here, are left out."""
        buffer = self._buffer
        buffer += data
        datagrams: list[bytes] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            end = start + LENGTH_BYTES + int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if end > len(buffer):
                break
            if end > start + LENGTH_BYTES:
                datagrams.append(bytes(buffer[start + LENGTH_BYTES : end]))
            start = end
        del buffer[:start]
        return datagrams

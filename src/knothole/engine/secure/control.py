"""The messages on stream 0: the client's proof, credit for the other streams, candidates.

A message is one byte of type, two bytes of length and the body (docs/protocol/connection.md).
Unknown types are passed over, so that a later version may add some.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from knothole.engine.secure.identity import SIGNATURE_BYTES

CONTROL_STREAM: Final = 0
NONCE_BYTES: Final = 32  # ours: a commitment to it must not be guessable
LONGEST_BODY: Final = 1024  # ours: far above any message, so that a liar fills no memory

_HEADER: Final = struct.Struct("!BH")
_CREDIT: Final = struct.Struct("!QQ")


class MalformedControl(ValueError):
    """The peer's bytes on stream 0 are no control messages."""


class _Type(enum.IntEnum):
    PROOF = 1
    CREDIT = 2
    CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """The client reveals its nonce of the comparison words and proves its identity key."""

    client_nonce: bytes
    signature: bytes

    def encode(self) -> bytes:
        return _message(_Type.PROOF, self.client_nonce + self.signature)


@dataclass(frozen=True, slots=True)
class Credit:
    """A stream's receiver allows its sender ``limit`` bytes, counted from the stream's start."""

    stream_id: int
    limit: int

    def encode(self) -> bytes:
        return _message(_Type.CREDIT, _CREDIT.pack(self.stream_id, self.limit))


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidate lines that are new since the last word about them: a trickle without a server."""

    lines: tuple[str, ...]

    def encode(self) -> bytes:
        """In as many messages as it takes; what is longer than one is left out."""
        return b"".join(_message(_Type.CANDIDATES, body) for body in self._bodies())

    def _bodies(self) -> Iterator[bytes]:
        body = b""
        for line in (line.encode() for line in self.lines if len(line) <= LONGEST_BODY):
            if body and len(body) + 1 + len(line) > LONGEST_BODY:
                yield body
                body = b""
            body = body + b"\n" + line if body else line
        if body:
            yield body


ControlMessage = Proof | Credit | Candidates


class ControlReader:
    """Cuts the bytes of stream 0 into messages."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[ControlMessage]:
        """The messages that ``data`` completes. Raises :class:`MalformedControl`."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if length > LONGEST_BODY:
                raise MalformedControl(f"a control message of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            body, self._buffer = self._buffer[_HEADER.size : end], self._buffer[end:]
            message = _decode(kind, body)
            if message is not None:
                yield message


def _message(kind: _Type, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body)) + body


def _decode(kind: int, body: bytes) -> ControlMessage | None:
    match kind:
        case _Type.PROOF:
            if len(body) != NONCE_BYTES + SIGNATURE_BYTES:
                raise MalformedControl("a proof of the wrong length")
            return Proof(body[:NONCE_BYTES], body[NONCE_BYTES:])
        case _Type.CREDIT:
            if len(body) != _CREDIT.size:
                raise MalformedControl("a credit of the wrong length")
            return Credit(*_CREDIT.unpack(body))
        case _Type.CANDIDATES:
            try:
                return Candidates(tuple(body.decode("ascii").split("\n")))
            except UnicodeDecodeError as error:
                raise MalformedControl("candidates that are not ASCII") from error
        case _:
            return None

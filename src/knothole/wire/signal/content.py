"""What is inside a seal: statements that only the two ends read.

The server carries these as opaque bytes (docs/protocol/signal.md Section 6).
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.plans import Move, PlanTerms
from knothole.wire.signal.tcp import TcpWord
from knothole.wire.signal.values import (
    MAX_SEALED_BYTES,
    CallId,
    Candidates,
    Code,
    Datagram,
    DeviceId,
    Hash,
    Key,
    Name,
    Nonce,
    Signature,
    Text,
)

MAX_FLIGHT_DATAGRAMS: Final = 8  # ours: a TLS 1.3 flight with one small certificate has one to four

QuicDatagrams = Annotated[tuple[Datagram, ...], Meta(max_length=MAX_FLIGHT_DATAGRAMS)]


class ContentKind(enum.Enum):
    OFFER = "offer"
    ANSWER = "answer"
    TRICKLE = "trickle"


class Statement(Struct, frozen=True, omit_defaults=True):
    """Who says something to whom in which call; the signature is over exactly these bytes.

    ``device_id`` is the speaking device of the callee, None when the caller speaks. ``about`` is
    the SHA-256 of the sealed offer, None in the offer itself. ``sequence`` counts what one device
    has said in this call.
    """

    kind: ContentKind
    call_id: CallId
    from_name: Name
    from_key: Key
    to_name: Name
    to_key: Key
    body: bytes
    device_id: DeviceId | None = None
    about: Hash | None = None
    sequence: Annotated[int, Meta(ge=0, lt=2**32)] = 0


class SignedStatement(Struct, frozen=True):
    statement: bytes
    signature: Signature


class CallOffer(Struct, frozen=True, omit_defaults=True):
    """What the caller sends.

    ``secret`` gives both sides' ICE credentials, ``reply_key`` is the one-time X25519 key that
    answers are sealed to, ``quic_datagrams`` the first flight of the QUIC client, ``kind`` what
    is wanted ("call": a person shall answer, "line": a program), ``app`` for which application,
    ``terms`` what a plan may rest on.
    """

    secret: Key
    reply_key: Key
    words_commitment: Hash
    kind: Code
    candidates: Candidates = ()
    quic_datagrams: QuicDatagrams = ()
    app: Text = ""
    terms: PlanTerms | None = None

    def __repr__(self) -> str:
        return f"CallOffer(kind={self.kind!r}, app={self.app!r}, candidates={self.candidates})"


class CallAnswer(Struct, frozen=True, omit_defaults=True):
    """What the callee sends: its candidates, the server's first flight, its nonce for the words."""

    words_nonce: Nonce
    candidates: Candidates = ()
    quic_datagrams: QuicDatagrams = ()
    terms: PlanTerms | None = None


class TrickledCandidates(Struct, frozen=True, omit_defaults=True):
    """Candidates found since (RFC 8838); ``end`` is its end-of-candidates indication. ``move`` is
    the next step of a plan, ``tcp`` a word about a simultaneous open."""

    candidates: Candidates = ()
    end: bool = False
    move: Move | None = None
    tcp: TcpWord | None = None


Body = CallOffer | CallAnswer | TrickledCandidates
BodyT = TypeVar("BodyT", bound=Body)


def encode_content(value: Statement | SignedStatement | Body) -> bytes:
    return msgspec.msgpack.encode(value)


def decode_statement(data: bytes) -> Statement:
    """Raises :class:`MalformedMessage` and nothing else; so do the other decoders here."""
    return _decode(data, Statement)


def decode_signed_statement(data: bytes) -> SignedStatement:
    return _decode(data, SignedStatement)


def decode_body(data: bytes, kind: type[BodyT]) -> BodyT:
    return _decode(data, kind)


T = TypeVar("T", bound=Struct)


def _decode(data: bytes, kind: type[T]) -> T:
    if len(data) > MAX_SEALED_BYTES:
        raise MalformedMessage(f"sealed content has at most {MAX_SEALED_BYTES} bytes")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise MalformedMessage(f"not a {kind.__name__}: {type(error).__name__}") from error

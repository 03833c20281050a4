"""Bytes that a server must withstand: messages that mean something, damaged, and huge ones."""

from __future__ import annotations

import contextlib
import random
import ssl
import struct
from collections.abc import Sequence

from knothole.engine.turn.authentication import PASSWORD_ALGORITHMS
from knothole.wire.address import Address
from knothole.wire.stun import (
    AccessToken,
    AdditionalAddressFamily,
    Attribute,
    ChannelNumber,
    ConnectionId,
    Data,
    DontFragment,
    EvenPort,
    Icmp,
    Lifetime,
    Message,
    MessageClass,
    Method,
    MobilityTicket,
    Nonce,
    Realm,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    Userhash,
    Username,
    XorPeerAddress,
    encode,
)

MAGIC = bytes.fromhex("2112a442")  # RFC 8489 Section 5


def stun_messages() -> list[bytes]:
    """STUN messages of every kind and ChannelData, to be damaged."""
    peer = XorPeerAddress(Address("1.2.3.4", 5))
    signed = (Username("1:x"), Realm("knothole"), Nonce(b"abc"))
    made = [
        Message(message_class, method, bytes(12), attributes)
        for message_class in MessageClass
        for method in Method
        for attributes in (
            (),
            (RequestedTransport(17), Lifetime(600), *signed),
            (peer, Data(b"payload"), *signed),
        )
    ]
    channel_data = [b"\x40\x00\x00\x04abcd", b"\x4f\xff\xff\xff", b"\x40"]
    return [
        *(encode(message, key=b"k" * 16, fingerprint=True) for message in made),
        *(encode(message) for message in made),
        *channel_data,
    ]


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """One of many ways to spoil ``whole``."""
    data = bytearray(whole)
    for _ in range(rng.randrange(4)):
        match rng.randrange(5):
            case 0 if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
            case 1:
                del data[rng.randrange(len(data) + 1) :]
            case 2:
                data += rng.randbytes(rng.randrange(64))
            case 3 if len(data) > 4:
                data[2:4] = rng.randbytes(2)
            case _:
                at = rng.randrange(len(data) + 1)
                data[at:at] = rng.randbytes(rng.randrange(8))
    return bytes(data) if rng.randrange(10) else rng.randbytes(rng.randrange(1400))


def huge_message(rng: random.Random, size: int, *, kinds: Sequence[int] = ()) -> bytes:
    """A well-framed STUN request of ``size`` bytes: one long attribute, or thousands."""
    method = rng.choice([each for each in Method if each is not Method.DATA])
    body = max(4, size - 20 & ~3)
    head = struct.pack("!HH", _request_type(method), body) + MAGIC + rng.randbytes(12)
    kind = rng.choice(kinds or (0x0006, 0x0009, 0x000A, 0x0012, 0x0013, 0x0014, 0x8022, 0x7FFF))
    if rng.randrange(2):
        length = max(0, body - 4 - rng.randrange(4))
        return head + struct.pack("!HH", kind, length) + bytes(body - 4)
    return head + struct.pack("!HH", kind, 0) * (body // 4)


def huge_frames(rng: random.Random) -> bytes:
    """How something of 64 KiB on a stream begins that will never be there whole."""
    if rng.randrange(2):
        return struct.pack("!HH", 0x4000 + rng.randrange(0x1000), 0xFFFF) + rng.randbytes(100)
    head = struct.pack("!HH", _request_type(Method.ALLOCATE), 0xFFFC) + MAGIC
    return head + rng.randbytes(rng.randrange(12, 400))


def signed_requests(
    rng: random.Random, username: str, realm: str, nonce: bytes, key: bytes
) -> list[bytes]:
    """What somebody with good credentials may ask who means no good; the first one allocates."""
    identity: tuple[Attribute, ...] = (
        *(Username(username), Realm(realm), Nonce(nonce)),
        *(PASSWORD_ALGORITHMS, PASSWORD_ALGORITHMS.algorithms[0]),
    )
    hosts = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "8.8.8.8"]  # noqa: S104

    def peer() -> Attribute:
        return XorPeerAddress(Address(rng.choice(hosts), rng.randrange(65536)))

    def wish() -> tuple[int, tuple[Attribute, ...]]:
        method = rng.choice([each for each in Method if each is not Method.DATA])
        parts: list[Attribute] = [
            rng.choice(
                (
                    peer(),
                    Lifetime(rng.randrange(1 << 32)),
                    ChannelNumber(rng.randrange(65536)),
                    RequestedTransport(rng.randrange(256)),
                    EvenPort(bool(rng.randrange(2))),
                    Data(rng.randbytes(rng.randrange(600))),
                    MobilityTicket(rng.randbytes(rng.choice([0, 24, 32]))),
                    AccessToken(b"\0\x0c" + rng.randbytes(rng.randrange(100))),
                    ReservationToken(rng.randbytes(8)),
                    RequestedAddressFamily(rng.randrange(4)),
                    AdditionalAddressFamily(rng.randrange(4)),
                    ConnectionId(rng.randrange(1 << 32)),
                    DontFragment(),
                    Icmp(rng.randrange(128), rng.randrange(512), rng.randrange(1 << 32)),
                    Userhash(rng.randbytes(32)),
                )
            )
            for _ in range(rng.randrange(5))
        ]
        if rng.randrange(4) == 0:
            parts += [peer() for _ in range(400)]
        return method, tuple(parts)

    wishes = [(Method.ALLOCATE, (RequestedTransport(),)), *(wish() for _ in range(20))]
    return [
        encode(
            Message(MessageClass.REQUEST, method, rng.randbytes(12), (*parts, *identity)),
            sha256_key=key,
        )
        for method, parts in wishes
    ]


def client_hello(context: ssl.SSLContext) -> bytes:
    """What a TLS client sends first."""
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def tls_context(*alpn: str) -> ssl.SSLContext:
    """Of a client that trusts everybody."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _request_type(method: int) -> int:
    """RFC 8489 Section 5: the method's bits around those of the class, which are 0."""
    return (method & 0xF80) << 2 | (method & 0x70) << 1 | method & 0xF

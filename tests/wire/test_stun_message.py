"""Header, order of attributes, integrity and fingerprint (RFC 8489 Sections 5, 6.3 and 14)."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import struct

import pytest

from knothole.wire import stun
from knothole.wire.address import Address
from knothole.wire.stun import (
    Algorithm,
    Attribute,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    SecurityFeature,
    Software,
    UnknownAttribute,
    Username,
    decode,
    encode,
    looks_like_stun,
    verify_integrity,
    verify_integrity_sha256,
)

ID = bytes(range(12))
KEY = b"key"


def request(*attributes: Attribute, method: int = Method.BINDING) -> Message:
    return Message(MessageClass.REQUEST, method, ID, attributes)


def raw(*attributes: tuple[int, bytes], kind: int = 0x0001, padding: bytes = b"\0") -> bytes:
    body = b""
    for each, value in attributes:
        body += struct.pack("!HH", each, len(value)) + value + padding * (-len(value) % 4)
    return struct.pack("!HHI", kind, len(body), 0x2112A442) + ID + body


def insert_before_end(data: bytes, attribute: bytes, tail: int) -> bytes:
    """``data`` with ``attribute`` before its last ``tail`` bytes, and the length put right."""
    longer = data[: len(data) - tail] + attribute + data[len(data) - tail :]
    return longer[:2] + struct.pack("!H", len(longer) - 20) + longer[4:]


@pytest.mark.parametrize(
    ("message_class", "method", "kind"),
    [
        (MessageClass.REQUEST, Method.BINDING, 0x0001),
        (MessageClass.INDICATION, Method.BINDING, 0x0011),
        (MessageClass.SUCCESS, Method.BINDING, 0x0101),
        (MessageClass.ERROR, Method.BINDING, 0x0111),
        (MessageClass.REQUEST, Method.ALLOCATE, 0x0003),
        (MessageClass.ERROR, Method.ALLOCATE, 0x0113),
        (MessageClass.INDICATION, Method.SEND, 0x0016),
        (MessageClass.INDICATION, Method.DATA, 0x0017),
        (MessageClass.SUCCESS, Method.CHANNEL_BIND, 0x0109),
        (MessageClass.INDICATION, Method.CONNECTION_ATTEMPT, 0x001C),
        (MessageClass.ERROR, 0xFFF, 0x3FFF),
    ],
)
def test_class_and_method_interleave_in_the_message_type(
    message_class: MessageClass, method: int, kind: int
) -> None:
    data = encode(Message(message_class, method, ID))
    assert data[:2] == struct.pack("!H", kind)
    assert decode(data) == Message(message_class, method, ID)


def test_every_class_and_method_comes_back() -> None:
    for message_class, method in itertools.product(MessageClass, range(0x1000)):
        again = decode(encode(Message(message_class, method, ID)))
        assert (again.message_class, again.method) == (message_class, method)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        raw()[:-1],
        raw() + bytes(4),
        raw() + b"\0",
        bytes((0x40,)) + raw()[1:],
        bytes((0x80,)) + raw()[1:],
        raw()[:4] + bytes(4) + raw()[8:],
        raw()[:3] + b"\x04" + raw()[4:],
        raw()[:2] + b"\x00\x04" + raw()[4:] + b"\x80\x22\x00\x01",  # the attribute is cut off
        raw((0x0008, bytes(19))),
        raw((0x0008, bytes(24))),
        raw((0x001C, bytes(12))),
        raw((0x001C, bytes(18))),
        raw((0x001C, bytes(36))),
        raw((0x8028, bytes(4))),  # FINGERPRINT of other bytes
        raw((0x8028, bytes(8))),
    ],
)
def test_what_is_no_message_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data)


def test_looks_like_stun_only_with_cookie_and_length() -> None:
    assert looks_like_stun(raw((0x8022, b"abc")))
    assert not looks_like_stun(raw() + bytes(4))
    assert not looks_like_stun(raw()[:-1])
    assert not looks_like_stun(bytes(20))
    assert not looks_like_stun(b"\x40" + raw()[1:])
    assert not looks_like_stun(b"")


def test_first_of_duplicates_counts() -> None:
    message = decode(raw((0x8022, b"one"), (0x8022, b"two"), (0x0006, b"a"), (0x0006, b"b")))
    assert message.attributes == (Software("one"), Username("a"))
    assert message.get(Software) == Software("one")
    assert message.get(stun.Realm) is None


def test_duplicate_that_cannot_be_read_does_no_harm() -> None:
    assert decode(raw((0x0006, b"a"), (0x0006, b"\xff"))).attributes == (Username("a"),)


def test_peers_and_relayed_addresses_are_lists() -> None:
    peers = tuple(stun.XorPeerAddress(Address("192.0.2.1", port)) for port in (1, 2, 1))
    relayed = (
        stun.XorRelayedAddress(Address("192.0.2.1", 1)),
        stun.XorRelayedAddress(Address("2001:db8::1", 1)),
    )
    message = decode(encode(request(*peers, *relayed)))
    assert message.get_all(stun.XorPeerAddress) == peers
    assert message.get(stun.XorPeerAddress) == peers[0]
    assert message.get_all(stun.XorRelayedAddress) == relayed


def test_padding_may_hold_anything() -> None:
    assert decode(raw((0x0006, b"abcde"), padding=b"\xff")).attributes == (Username("abcde"),)
    assert encode(request(Username("abcde"))).endswith(b"abcde\0\0\0")


def test_padding_is_covered_by_integrity_as_it_came() -> None:
    data = bytearray(encode(request(Username("abcde")), key=KEY))
    data[20 + 4 + 5] = 0xFF
    assert not verify_integrity(decode(bytes(data)), KEY)


def test_unknown_required_attributes_are_told_in_order() -> None:
    message = decode(raw((0x7777, b""), (0x0030, b"abc"), (0xFFFF, b""), (0x7777, b"again")))
    assert message.unknown_required == (0x7777, 0x0030)
    assert UnknownAttribute(0xFFFF, b"") in message.attributes
    assert not UnknownAttribute(0xFFFF, b"").required


def test_integrity_of_both_kinds_and_fingerprint_live_together() -> None:
    message = decode(encode(request(Username("a")), key=KEY, sha256_key=b"other", fingerprint=True))
    assert (message.has_integrity, message.has_integrity_sha256) == (True, True)
    assert message.has_fingerprint
    assert verify_integrity(message, KEY) and not verify_integrity(message, b"other")
    assert verify_integrity_sha256(message, b"other") and not verify_integrity_sha256(message, KEY)
    assert message == request(Username("a"))


def test_message_without_integrity_verifies_under_no_key() -> None:
    message = decode(encode(request(), fingerprint=True))
    assert not (message.has_integrity or message.has_integrity_sha256)
    assert not verify_integrity(message, b"")
    assert not verify_integrity_sha256(message, b"")
    assert not verify_integrity(request(), b"")  # never decoded


LATE = struct.pack("!HH", 0x8022, 4) + b"late"
LATE_REQUIRED = struct.pack("!HHI", 0x7777, 4, 0)


@pytest.mark.parametrize("late", [LATE, LATE_REQUIRED])
def test_nothing_after_integrity_counts(late: bytes) -> None:
    message = decode(insert_before_end(encode(request(Username("a")), key=KEY), late, 0))
    assert message.attributes == (Username("a"),)
    assert message.unknown_required == ()
    assert verify_integrity(message, KEY)


@pytest.mark.parametrize("late", [LATE, LATE_REQUIRED])
def test_nothing_after_sha256_integrity_counts(late: bytes) -> None:
    data = insert_before_end(encode(request(Username("a")), sha256_key=KEY), late, 0)
    message = decode(data)
    assert message.attributes == (Username("a"),)
    assert verify_integrity_sha256(message, KEY)


def test_sha1_integrity_after_sha256_does_not_count() -> None:
    sha256_first = encode(request(Username("a")), sha256_key=KEY)
    message = decode(insert_before_end(sha256_first, struct.pack("!HH", 8, 20) + bytes(20), 0))
    assert message.has_integrity_sha256 and not message.has_integrity


def test_sha256_integrity_counts_after_something_that_follows_sha1() -> None:
    """Ignored is the attribute between them, not what the standard lets stand there."""
    data = encode(request(Username("a")), key=KEY)
    data = insert_before_end(data, LATE, 0)
    body = data[20:]
    hashed_over = data[:2] + struct.pack("!H", len(body) + 36) + data[4:]
    mac = hmac.new(KEY, hashed_over, hashlib.sha256).digest()
    data = insert_before_end(data, struct.pack("!HH", 0x001C, 32) + mac, 0)
    message = decode(data)
    assert verify_integrity(message, KEY) and verify_integrity_sha256(message, KEY)
    assert message.attributes == (Username("a"),)


def test_second_integrity_does_not_count() -> None:
    data = encode(request(Username("a")), key=KEY)
    data = insert_before_end(data, struct.pack("!HH", 8, 20) + bytes(20), 0)
    assert verify_integrity(decode(data), KEY)


@pytest.mark.parametrize("size", [16, 20, 24, 28, 32])
def test_truncated_sha256_counts_only_where_the_usage_allows_it(size: int) -> None:
    data = encode(request(Username("a")))
    body_length = len(data) - 20 + 4 + size
    text = data[:2] + struct.pack("!H", body_length) + data[4:]
    mac = hmac.new(KEY, text, hashlib.sha256).digest()[:size]
    message = decode(text + struct.pack("!HH", 0x001C, size) + mac)
    assert verify_integrity_sha256(message, KEY, least_size=16)
    assert verify_integrity_sha256(message, KEY, least_size=0)
    assert verify_integrity_sha256(message, KEY) is (size == 32)
    assert verify_integrity_sha256(message, KEY, least_size=20) is (size >= 20)
    assert not verify_integrity_sha256(message, b"other", least_size=16)


def test_fingerprint_must_be_last() -> None:
    with pytest.raises(MalformedMessage):
        decode(insert_before_end(encode(request(), fingerprint=True), LATE, 0))


def test_classic_message_needs_to_be_asked_for() -> None:
    classic = Message(
        MessageClass.REQUEST, Method.BINDING, bytes(range(16)), (Username("a"),), cookie=False
    )
    data = encode(classic)
    assert len(data) == 20 + 8
    with pytest.raises(MalformedMessage):
        decode(data)
    assert decode(data, classic=True) == classic
    assert decode(raw(), classic=True).cookie


@pytest.mark.parametrize(
    "message",
    [
        Message(MessageClass.REQUEST, Method.BINDING, bytes(11)),
        Message(MessageClass.REQUEST, Method.BINDING, bytes(16)),
        Message(MessageClass.REQUEST, Method.BINDING, bytes(12), cookie=False),
        Message(MessageClass.REQUEST, 0x1000, bytes(12)),
        Message(MessageClass.REQUEST, 1, bytes(12), (stun.Data(bytes(60000)), stun.Padding(60000))),
    ],
)
def test_message_that_cannot_be_written_is_the_callers_error(message: Message) -> None:
    with pytest.raises(ValueError):
        encode(message)


def test_keys_prepare_their_parts() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    assert stun.short_term_key(composed) == stun.short_term_key(decomposed)
    assert stun.short_term_key("a\u3000b") == b"a b"
    for algorithm in Algorithm:
        assert stun.long_term_key(composed, "r", "p", algorithm) == stun.long_term_key(
            decomposed, "r", "p", algorithm
        )
    assert stun.userhash(composed, "r") == stun.userhash(decomposed, "r")
    # Compatibility forms stay apart: RFC 8265 uses NFC, not the NFKC of SASLprep.
    assert stun.short_term_key("\u2168") != stun.short_term_key("IX")


def test_nonce_cookie_says_what_the_server_can_do() -> None:
    both = SecurityFeature.PASSWORD_ALGORITHMS | SecurityFeature.USERNAME_ANONYMITY
    assert stun.nonce_cookie(SecurityFeature(0)) == b"obMatJos2AAAA"
    assert stun.nonce_cookie(both) == b"obMatJos2wAAA"
    assert stun.security_features(stun.nonce_cookie(both) + b"rest") == both
    assert stun.security_features(b"obMatJos2gAAArest") is SecurityFeature.PASSWORD_ALGORITHMS
    for nonce in (b"", b"obMatJos2AAA", b"xbMatJos2AAAA", b"obMatJos2A?AA", b"obMatJos2AA=="):
        assert stun.security_features(nonce) is None


def test_secrets_and_bytes_stay_out_of_the_repr() -> None:
    assert "raw" not in repr(decode(raw()))

"""Every attribute: its type number, its bytes as the standards draw them, and back."""

from __future__ import annotations

import struct

import pytest

from knothole.wire import stun
from knothole.wire.address import Address
from knothole.wire.stun import Attribute, MalformedMessage, Message, MessageClass, Method

ID = bytes(range(12))
V4 = Address("192.0.2.1", 32853)
V6 = Address("2001:db8::1", 80)
PLAIN_V4 = "00018055c0000201"
PLAIN_V6 = "0002005020010db8000000000000000000000001"
XOR_V4 = "0001a147e112a643"  # as in RFC 5769 Section 2.2

TABLE: list[tuple[Attribute, int, str]] = [
    (stun.MappedAddress(V4), 0x0001, PLAIN_V4),
    (stun.MappedAddress(V6), 0x0001, PLAIN_V6),
    (stun.ResponseAddress(V4), 0x0002, PLAIN_V4),
    (stun.ChangeRequest(change_ip=True), 0x0003, "00000004"),
    (stun.ChangeRequest(change_port=True), 0x0003, "00000002"),
    (stun.ChangeRequest(change_ip=True, change_port=True), 0x0003, "00000006"),
    (stun.SourceAddress(V4), 0x0004, PLAIN_V4),
    (stun.ChangedAddress(V4), 0x0005, PLAIN_V4),
    (stun.Username("a:b"), 0x0006, "613a62"),
    (stun.Password(b"\xff"), 0x0007, "ff"),
    (stun.ErrorCode(420, "no"), 0x0009, "000004146e6f"),
    (stun.ErrorCode(699), 0x0009, "00000663"),
    (stun.UnknownAttributes((0x7777, 0x0003)), 0x000A, "77770003"),
    (stun.ReflectedFrom(V4), 0x000B, PLAIN_V4),
    (stun.ChannelNumber(0x4001), 0x000C, "40010000"),
    (stun.Lifetime(600), 0x000D, "00000258"),
    (stun.XorPeerAddress(V4), 0x0012, XOR_V4),
    (stun.Data(b"\0payload"), 0x0013, "007061796c6f6164"),
    (stun.Realm("r"), 0x0014, "72"),
    (stun.Nonce(b"n\xff"), 0x0015, "6eff"),
    (stun.XorRelayedAddress(V4), 0x0016, XOR_V4),
    (stun.RequestedAddressFamily(stun.AddressFamily.IPV6), 0x0017, "02000000"),
    (stun.EvenPort(reserve=True), 0x0018, "80"),
    (stun.EvenPort(), 0x0018, "00"),
    (stun.RequestedTransport(17), 0x0019, "11000000"),
    (stun.DontFragment(), 0x001A, ""),
    (stun.PasswordAlgorithm(stun.Algorithm.SHA256), 0x001D, "00020000"),
    (stun.PasswordAlgorithm(9, b"\x01"), 0x001D, "0009000101000000"),
    (stun.Userhash(bytes(32)), 0x001E, "00" * 32),
    (stun.XorMappedAddress(V4), 0x0020, XOR_V4),
    (stun.ReservationToken(b"12345678"), 0x0022, "3132333435363738"),
    (stun.Priority(0x6E0001FF), 0x0024, "6e0001ff"),
    (stun.UseCandidate(), 0x0025, ""),
    (stun.Padding(3), 0x0026, "000000"),
    (stun.ResponsePort(5000), 0x0027, "13880000"),
    (stun.ConnectionId(7), 0x002A, "00000007"),
    (stun.AdditionalAddressFamily(2), 0x8000, "02000000"),
    (stun.DraftAdditionalAddressFamily(2), 0x8032, "02000000"),
    (stun.AddressErrorCode(2, 440, "no"), 0x8001, "020004286e6f"),
    (
        stun.PasswordAlgorithms((stun.PasswordAlgorithm(2), stun.PasswordAlgorithm(1))),
        0x8002,
        "0002000000010000",
    ),
    (stun.AlternateDomain("example.org"), 0x8003, b"example.org".hex()),
    (stun.Icmp(3, 4, 1400), 0x8004, "0000060400000578"),
    (stun.Software("s"), 0x8022, "73"),
    (stun.AlternateServer(V6), 0x8023, PLAIN_V6),
    (stun.CacheTimeout(60), 0x8027, "0000003c"),
    (stun.IceControlled(1), 0x8029, "0000000000000001"),
    (stun.IceControlling(2**64 - 1), 0x802A, "ff" * 8),
    (stun.ResponseOrigin(V4), 0x802B, PLAIN_V4),
    (stun.OtherAddress(V4), 0x802C, PLAIN_V4),
    (stun.AccessToken(b"token"), 0x001B, b"token".hex()),
    (stun.ThirdPartyAuthorization("turn.example"), 0x802E, b"turn.example".hex()),
    (stun.MobilityTicket(b"ticket"), 0x8030, b"ticket".hex()),
    (stun.UnknownAttribute(0x7FFF, b"x"), 0x7FFF, "78"),
    (stun.UnknownAttribute(0xBEEF, b""), 0xBEEF, ""),
]


def message_with(*attributes: Attribute) -> Message:
    return Message(MessageClass.SUCCESS, Method.BINDING, ID, attributes)


def raw(kind: int, value: bytes) -> bytes:
    body = struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)
    return struct.pack("!HHI", 0x0101, len(body), 0x2112A442) + ID + body


@pytest.mark.parametrize(("attribute", "kind", "value"), TABLE, ids=lambda each: str(each)[:40])
def test_attribute_has_the_bytes_of_the_standard(
    attribute: Attribute, kind: int, value: str
) -> None:
    assert stun.encode(message_with(attribute)) == raw(kind, bytes.fromhex(value))


@pytest.mark.parametrize(("attribute", "kind", "value"), TABLE, ids=lambda each: str(each)[:40])
def test_bytes_of_the_standard_are_the_attribute(
    attribute: Attribute, kind: int, value: str
) -> None:
    assert stun.decode(raw(kind, bytes.fromhex(value))).attributes == (attribute,)


def test_the_table_has_every_exported_attribute() -> None:
    exported = {
        each
        for each in vars(stun).values()
        if isinstance(each, type) and issubclass(each, Attribute) and each is not Attribute
    }
    assert exported == {type(attribute) for attribute, _, _ in TABLE}


def test_reserved_bits_and_bytes_are_ignored() -> None:
    for kind, value, attribute in [
        (0x0001, "ff018055c0000201", stun.MappedAddress(V4)),
        (0x0020, "ff01a147e112a643", stun.XorMappedAddress(V4)),
        (0x0003, "fffffff9", stun.ChangeRequest()),
        (0x0009, "fffffc14", stun.ErrorCode(420)),
        (0x000C, "4001ffff", stun.ChannelNumber(0x4001)),
        (0x0017, "01ffffff", stun.RequestedAddressFamily(1)),
        (0x0018, "7f", stun.EvenPort(reserve=False)),
        (0x0019, "11ffffff", stun.RequestedTransport(17)),
        (0x8004, "ffff060400000578", stun.Icmp(3, 4, 1400)),
    ]:
        assert stun.decode(raw(kind, bytes.fromhex(value))).attributes == (attribute,)


def test_response_port_is_read_without_its_padding_too() -> None:
    assert stun.decode(raw(0x0027, b"\x13\x88")).attributes == (stun.ResponsePort(5000),)


def test_ipv6_addresses_are_hidden_by_the_transaction_id_too() -> None:
    data = stun.encode(message_with(stun.XorMappedAddress(V6)))
    assert V6.ip.packed not in data
    assert stun.decode(data).get(stun.XorMappedAddress) == stun.XorMappedAddress(V6)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (0x0001, "0003" + "00" * 6),  # unknown family
        (0x0001, "00018055c00002"),  # an IPv4 address of three bytes
        (0x0001, "0002" + "00" * 6),  # an IPv6 address of four bytes
        (0x0001, ""),
        (0x0020, "000155"),
        (0x0020, "00" * 21),
        (0x0006, "ff"),  # not UTF-8
        (0x0006, "61" * 764),
        (0x0014, "61" * 764),
        (0x0015, "61" * 764),
        (0x0009, "000004"),
        (0x0009, "00000200"),  # error 200
        (0x0009, "00000464"),  # error 4 and 100
        (0x0009, "00000700"),
        (0x000A, "777700"),
        (0x000C, "4001"),
        (0x000D, "000258"),
        (0x0017, "01"),
        (0x0018, ""),
        (0x0018, "8000"),
        (0x0019, "11"),
        (0x001A, "00"),
        (0x001D, "000200"),
        (0x001D, "0002000000010000"),
        (0x001D, "0002000401"),
        (0x001E, "00" * 31),
        (0x0022, "00" * 7),
        (0x0024, "00"),
        (0x0025, "00000000"),
        (0x0027, "13"),
        (0x002A, "00"),
    ],
)
def test_unreadable_required_attribute_spoils_the_message(kind: int, value: str) -> None:
    with pytest.raises(MalformedMessage):
        stun.decode(raw(kind, bytes.fromhex(value)))


@pytest.mark.parametrize(
    ("kind", "value"),
    [(0x8022, "ff"), (0x8023, "0003"), (0x8029, "00"), (0x8002, "0001"), (0x8003, "61" * 256)],
)
def test_unreadable_optional_attribute_is_as_good_as_unknown(kind: int, value: str) -> None:
    message = stun.decode(raw(kind, bytes.fromhex(value)))
    assert message.attributes == (stun.UnknownAttribute(kind, bytes.fromhex(value)),)
    assert message.unknown_required == ()


def test_reason_that_is_no_text_is_shown_as_far_as_it_goes() -> None:
    assert stun.decode(raw(0x0009, b"\0\0\x04\x01ab\xff")).get(stun.ErrorCode) == stun.ErrorCode(
        401, "ab\ufffd"
    )


@pytest.mark.parametrize(
    "attribute",
    [
        stun.MappedAddress(Address("192.0.2.1", 65536)),
        stun.MappedAddress(Address("example.org", 1)),
        stun.MappedAddress(Address("192.0.2", 1)),
        stun.MappedAddress(Address("192.0.2.256", 1)),
        stun.MappedAddress(Address("192.0.2.1.1", 1)),
        stun.XorMappedAddress(Address("", 1)),
        stun.Username("\u00e4" * 255),
        stun.Realm("a" * 128),
        stun.Software("a" * 128),
        stun.AlternateDomain("a" * 256),
        stun.ErrorCode(299),
        stun.ErrorCode(700),
        stun.UnknownAttributes((65536,)),
        stun.ChannelNumber(65536),
        stun.Lifetime(-1),
        stun.Lifetime(2**32),
        stun.RequestedAddressFamily(256),
        stun.RequestedTransport(256),
        stun.ReservationToken(b""),
        stun.Userhash(b""),
        stun.Icmp(128, 0),
        stun.Icmp(3, 0, 2**32),
        stun.IceControlled(2**64),
        stun.ResponsePort(-1),
        stun.PasswordAlgorithm(65536),
        stun.UnknownAttribute(65536, b""),
        stun.Data(bytes(65536)),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_no_message_can_hold_is_the_callers_error(attribute: Attribute) -> None:
    with pytest.raises(ValueError):
        stun.encode(message_with(attribute))


def test_what_is_encoded_once_is_sent_as_it_would_be_each_time() -> None:
    offer = stun.PasswordAlgorithms((stun.PasswordAlgorithm(2), stun.PasswordAlgorithm(1, b"x")))
    once = stun.encoded(offer)
    assert stun.encode(message_with(once)) == stun.encode(message_with(offer))
    assert stun.decode(stun.encode(message_with(once))).get(stun.PasswordAlgorithms) == offer


def test_reason_is_cut_to_what_may_be_sent() -> None:
    data = stun.encode(message_with(stun.ErrorCode(500, "x" * 500)))
    assert stun.decode(data).get(stun.ErrorCode) == stun.ErrorCode(500, "x" * 127)


def test_reason_is_read_no_longer_than_it_may_be_sent() -> None:
    error = stun.decode(raw(0x0009, b"\0\0\x05\0" + b"x" * 700)).get(stun.ErrorCode)
    assert error == stun.ErrorCode(500, "x" * 127)

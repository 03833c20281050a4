"""The Binding server: RFC 8489 Section 12, RFC 5780 Section 6, and clients of RFC 3489."""

from __future__ import annotations

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    Attribute,
    ChangedAddress,
    ChangeRequest,
    ErrorCode,
    EvenPort,
    MappedAddress,
    Message,
    MessageClass,
    Method,
    OtherAddress,
    Padding,
    ResponseAddress,
    ResponseOrigin,
    ResponsePort,
    Software,
    SourceAddress,
    UnknownAttribute,
    UnknownAttributes,
    XorMappedAddress,
    decode,
    encode,
)

CLIENT = Address("203.0.113.7", 40000)
CLIENT_V6 = Address("2001:db8::7", 40000)
HOST, OTHER_HOST = "192.0.2.1", "192.0.2.2"
PORT, OTHER_PORT = 3478, 3479
SERVER = Address(HOST, PORT)
ID = b"transaction!"
FOUR = AlternateAddresses(HOST, PORT, OTHER_PORT, OTHER_HOST)
TWO_PORTS = AlternateAddresses(HOST, PORT, OTHER_PORT)


def request(*attributes: Attribute, cookie: bool = True, fingerprint: bool = False) -> bytes:
    transaction_id = ID if cookie else bytes(range(16))
    message = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes, cookie)
    return encode(message, fingerprint=fingerprint)


def ask(
    server: BindingServer,
    payload: bytes,
    *,
    at: Address = SERVER,
    client: Address = CLIENT,
    transport: Transport = Transport.UDP,
) -> Datagram | None:
    server.receive(Datagram(client, at, payload, transport=transport), now=0.0)
    outputs = list(server.outputs())
    assert len(outputs) <= 1
    if not outputs:
        return None
    assert isinstance(outputs[0], Transmit)
    return outputs[0].datagram


def answer(
    server: BindingServer,
    payload: bytes,
    *,
    at: Address = SERVER,
    client: Address = CLIENT,
    transport: Transport = Transport.UDP,
) -> tuple[Datagram, Message]:
    datagram = ask(server, payload, at=at, client=client, transport=transport)
    assert datagram is not None
    return datagram, decode(datagram.payload, classic=True)


@pytest.mark.parametrize("client", [CLIENT, CLIENT_V6])
@pytest.mark.parametrize("transport", list(Transport))
def test_client_is_told_where_its_request_came_from(client: Address, transport: Transport) -> None:
    datagram, message = answer(BindingServer(), request(), client=client, transport=transport)
    assert (datagram.source, datagram.destination) == (SERVER, client)
    assert datagram.transport is transport
    assert message == Message(MessageClass.SUCCESS, Method.BINDING, ID, (XorMappedAddress(client),))


def test_answer_is_hardly_longer_than_the_question() -> None:
    """What a forged source gains, with 28 bytes of IP and UDP around both."""
    plain = ask(BindingServer(), request())
    full = ask(BindingServer(alternates=FOUR), request())
    longest = ask(BindingServer(alternates=FOUR), request(), client=CLIENT_V6)
    assert plain is not None and full is not None and longest is not None
    assert len(plain.payload) == 32
    assert len(full.payload) == 68
    assert len(longest.payload) <= 120


def test_fingerprint_is_answered_with_fingerprint() -> None:
    for fingerprint in (True, False):
        _, message = answer(BindingServer(), request(fingerprint=fingerprint))
        assert message.has_fingerprint is fingerprint


def test_retransmission_gets_the_same_answer() -> None:
    server = BindingServer()
    assert ask(server, request()) == ask(server, request())


def test_software_is_told_when_configured() -> None:
    _, message = answer(BindingServer(software="knothole"), request())
    assert message.get(Software) == Software("knothole")


def test_unknown_required_attributes_are_refused_by_name() -> None:
    payload = request(UnknownAttribute(0x7777, b"x"), UnknownAttribute(0xFFFF, b"optional"))
    _, message = answer(BindingServer(), payload)
    assert message.message_class is MessageClass.ERROR
    assert message.get(ErrorCode) == ErrorCode(420, "Unknown Attribute")
    assert message.get(UnknownAttributes) == UnknownAttributes((0x7777,))


def test_known_but_unexpected_attributes_are_ignored() -> None:
    _, message = answer(BindingServer(), request(EvenPort(), MappedAddress(CLIENT)))
    assert message.message_class is MessageClass.SUCCESS


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        request()[:-1],
        encode(Message(MessageClass.INDICATION, Method.BINDING, ID)),
        encode(Message(MessageClass.SUCCESS, Method.BINDING, ID)),
        encode(Message(MessageClass.ERROR, Method.BINDING, ID)),
        encode(Message(MessageClass.REQUEST, Method.ALLOCATE, ID)),
        encode(Message(MessageClass.REQUEST, 0x002, ID)),
    ],
)
def test_nothing_but_a_binding_request_is_answered(payload: bytes) -> None:
    assert ask(BindingServer(alternates=FOUR), payload) is None


def test_server_is_never_due() -> None:
    server = BindingServer()
    server.handle_timeout(1.0)
    assert server.next_timeout() is None


# RFC 5780


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (ChangeRequest(), Address(HOST, PORT)),
        (ChangeRequest(change_ip=True), Address(OTHER_HOST, PORT)),
        (ChangeRequest(change_port=True), Address(HOST, OTHER_PORT)),
        (ChangeRequest(change_ip=True, change_port=True), Address(OTHER_HOST, OTHER_PORT)),
    ],
)
def test_answer_comes_from_where_change_request_says(
    change: ChangeRequest, source: Address
) -> None:
    """RFC 5780 Section 6.1, Table 1."""
    datagram, message = answer(BindingServer(alternates=FOUR), request(change))
    assert (datagram.source, datagram.destination) == (source, CLIENT)
    assert message.attributes == (
        XorMappedAddress(CLIENT),
        MappedAddress(CLIENT),
        ResponseOrigin(source),
        OtherAddress(Address(OTHER_HOST, OTHER_PORT)),
    )


@pytest.mark.parametrize("host", [HOST, OTHER_HOST])
@pytest.mark.parametrize("port", [PORT, OTHER_PORT])
def test_other_address_is_as_seen_from_the_one_that_was_asked(host: str, port: int) -> None:
    both = ChangeRequest(change_ip=True, change_port=True)
    at = Address(host, port)
    datagram, message = answer(BindingServer(alternates=FOUR), request(both), at=at)
    other = message.get(OtherAddress)
    assert other is not None
    assert datagram.source == other.address
    assert other.address.host != host and other.address.port != port


@pytest.mark.parametrize(
    "server",
    [BindingServer(), BindingServer(alternates=FOUR)],
    ids=["no other address", "over TCP"],
)
def test_change_request_that_cannot_be_done_is_refused(server: BindingServer) -> None:
    for change in (ChangeRequest(change_ip=True), ChangeRequest(change_port=True)):
        datagram, message = answer(server, request(change), transport=Transport.TCP)
        assert datagram.source == SERVER
        assert message.get(ErrorCode) == ErrorCode(420, "Unknown Attribute")
        assert message.get(UnknownAttributes) == UnknownAttributes((ChangeRequest.TYPE,))


def test_change_request_at_an_address_without_alternates_is_refused() -> None:
    elsewhere = Address("192.0.2.3", PORT)
    server = BindingServer(alternates=FOUR)
    _, message = answer(server, request(ChangeRequest(change_port=True)), at=elsewhere)
    assert message.get(ErrorCode) == ErrorCode(420, "Unknown Attribute")
    _, message = answer(server, request(), at=elsewhere)
    assert message.attributes == (XorMappedAddress(CLIENT),)


def test_server_with_one_host_changes_ports_for_those_who_know() -> None:
    """docs/deviations.md: RFC 5780 would refuse this too; no OTHER-ADDRESS invites anybody."""
    server = BindingServer(alternates=TWO_PORTS)
    datagram, message = answer(server, request(ChangeRequest(change_port=True)))
    assert datagram.source == Address(HOST, OTHER_PORT)
    assert message.attributes == (XorMappedAddress(CLIENT),)
    for change in (
        ChangeRequest(change_ip=True),
        ChangeRequest(change_ip=True, change_port=True),
    ):
        _, message = answer(server, request(change))
        assert message.get(ErrorCode) == ErrorCode(420, "Unknown Attribute")


def test_response_port_changes_the_port_and_never_the_host() -> None:
    datagram, message = answer(BindingServer(alternates=FOUR), request(ResponsePort(5000)))
    assert datagram.destination == Address(CLIENT.host, 5000)
    assert message.get(XorMappedAddress) == XorMappedAddress(CLIENT)


def test_response_port_of_a_well_known_service_is_refused() -> None:
    for port in (0, 53, 1023):
        datagram, message = answer(BindingServer(alternates=FOUR), request(ResponsePort(port)))
        assert datagram.destination == CLIENT
        assert message.get(ErrorCode) == ErrorCode(400, "Bad Request")


def test_response_port_with_padding_is_refused() -> None:
    payload = request(ResponsePort(5000), Padding(100))
    datagram, message = answer(BindingServer(alternates=FOUR), payload)
    assert datagram.destination == CLIENT
    assert message.get(ErrorCode) == ErrorCode(400, "Bad Request")


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
def test_response_port_is_unknown_where_discovery_is_not_served(transport: Transport) -> None:
    server = BindingServer(alternates=FOUR if transport is Transport.TCP else None)
    _, message = answer(server, request(ResponsePort(5000)), transport=transport)
    assert message.get(UnknownAttributes) == UnknownAttributes((ResponsePort.TYPE,))


def test_padding_is_answered_with_no_more_than_came() -> None:
    for sent, expected in ((0, 0), (100, 100), (1500, 1500), (60000, 1500)):
        payload = request(Padding(sent))
        datagram, message = answer(BindingServer(alternates=FOUR), payload)
        assert message.get(Padding) == Padding(expected)
        assert len(datagram.payload) <= len(payload) + 48
    _, message = answer(BindingServer(), request(Padding(100)))
    assert message.get(Padding) is None


# RFC 3489


def test_classic_client_is_answered_in_its_own_words() -> None:
    assert ask(BindingServer(), request(cookie=False)) is None, "unless that is asked for"
    datagram, message = answer(BindingServer(classic=True), request(cookie=False))
    assert not message.cookie
    assert message.transaction_id == bytes(range(16))
    assert message.attributes == (MappedAddress(CLIENT), SourceAddress(SERVER))
    assert datagram.payload[4:20] == bytes(range(16))


def test_classic_client_learns_the_other_address_and_may_ask_for_it() -> None:
    change = ChangeRequest(change_ip=True, change_port=True)
    datagram, message = answer(
        BindingServer(alternates=FOUR, classic=True), request(change, cookie=False)
    )
    other = Address(OTHER_HOST, OTHER_PORT)
    assert datagram.source == other
    assert message.attributes == (
        MappedAddress(CLIENT),
        SourceAddress(other),
        ChangedAddress(other),
    )


@pytest.mark.parametrize("cookie", [True, False])
def test_response_address_is_never_followed(cookie: bool) -> None:
    victim = Address("198.51.100.1", 53)
    server = BindingServer(alternates=FOUR, classic=True)
    datagram, message = answer(server, request(ResponseAddress(victim), cookie=cookie))
    assert datagram.destination == CLIENT
    assert message.get(ErrorCode) == ErrorCode(420, "Unknown Attribute")
    unknown = message.get(UnknownAttributes)
    assert unknown is not None and set(unknown.types) == {ResponseAddress.TYPE}


def test_classic_list_of_unknown_attributes_is_even() -> None:
    """RFC 3489 Section 11.2.10: padded by repeating one of them."""
    payload = request(UnknownAttribute(0x7777, b""), cookie=False)
    _, message = answer(BindingServer(classic=True), payload)
    assert message.get(UnknownAttributes) == UnknownAttributes((0x7777, 0x7777))

"""STUN and TURN URIs (RFC 7064, RFC 7065)."""

from __future__ import annotations

import pytest

from knothole.wire.address import Transport
from knothole.wire.malformed import MalformedMessage
from knothole.wire.turn_uri import ServerUri, format_server_uri, parse_server_uri


@pytest.mark.parametrize(
    ("text", "host", "port", "transport"),
    [
        ("turn:example.org", "example.org", 3478, Transport.UDP),
        ("turn:example.org:80?transport=tcp", "example.org", 80, Transport.TCP),
        ("turns:example.org", "example.org", 5349, Transport.TLS),
        ("turns:[2001:db8::1]:443?transport=tcp", "2001:db8::1", 443, Transport.TLS),
        ("turns:example.org?transport=udp", "example.org", 5349, Transport.DTLS),
        ("stun:192.0.2.1:3479", "192.0.2.1", 3479, Transport.UDP),
    ],
)
def test_a_uri_says_where_and_how(text: str, host: str, port: int, transport: Transport) -> None:
    assert parse_server_uri(text) == ServerUri(host, port, transport)


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("host", ["turn.test", "2001:db8::1"])
def test_what_is_written_is_read_again(host: str, transport: Transport) -> None:
    assert parse_server_uri(format_server_uri(host, 443, transport)) == ServerUri(
        host, 443, transport
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "turn:",
        "http://example.org",
        "turn:a:0",
        "turn:a:65536",
        "turn:a?transport=dtls",
        "turn",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_server_uri(text)

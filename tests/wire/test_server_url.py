from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.wire.server_url import (
    InvalidServerUrl,
    ServerUrl,
    format_pin,
    format_server_url,
    parse_pin,
    parse_server_url,
)

PIN = bytes(range(32))
BASE32 = "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq"


def test_the_address_a_server_prints_is_read_as_it_was_meant() -> None:
    assert parse_server_url(f"knothole://example.org:3478?tcp=443,8443#{BASE32}") == ServerUrl(
        "example.org", 3478, (443, 8443), PIN
    )


def test_port_options_and_pin_may_be_missing() -> None:
    assert parse_server_url("knothole://example.org") == ServerUrl("example.org", 3478, (), None)
    assert parse_server_url("knothole://example.org/") == ServerUrl("example.org")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("knothole://192.0.2.1:1", "192.0.2.1", 1),
        ("knothole://[2001:DB8::0:1]:65535", "2001:db8::1", 65535),
        ("knothole://[::1]", "::1", 3478),
        ("KNOTHOLE://Example.ORG.:99", "example.org", 99),
        ("  knothole://localhost:3478 \n", "localhost", 3478),
        ("knothole://my_host-1:3478", "my_host-1", 3478),
    ],
)
def test_hosts_come_out_canonical(text: str, host: str, port: int) -> None:
    url = parse_server_url(text)
    assert (url.host, url.port) == (host, port)


def test_the_pin_may_be_base32_in_either_case_or_base64url() -> None:
    base64url = base64.urlsafe_b64encode(PIN).decode()
    for spelling in (BASE32, BASE32.upper(), BASE32 + "====", base64url, base64url.rstrip("=")):
        assert parse_pin(spelling) == PIN
    assert format_pin(PIN) == BASE32


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "looks like knothole://HOST:PORT#PIN"),
        ("example.org:3478", "looks like knothole://HOST:PORT#PIN"),
        ("https://example.org", "looks like knothole"),
        ("knothole://", "host is missing"),
        ("knothole://:3478", "host is missing"),
        ("knothole://host:0", "not a port number"),
        ("knothole://host:65536", "not a port number"),
        ("knothole://host:", "not a port number"),
        ("knothole://host:+1", "not a port number"),
        ("knothole://2001:db8::1", "in brackets"),
        ("knothole://[2001:db8::1", "written \\[ADDRESS\\]:PORT"),
        ("knothole://[2001:db8::1]3478", "written \\[ADDRESS\\]:PORT"),
        ("knothole://[host]:3478", "not an IPv6 address"),
        ("knothole://[192.0.2.1]:3478", "not an IPv6 address"),
        ("knothole://[fe80::1%eth0]:3478", "only good on one link"),
        ("knothole://192.0.2.256", "not an IPv4 address"),
        ("knothole://1.2.3", "not an IPv4 address"),
        ("knothole://a..b", "neither a host name"),
        ("knothole://-a", "neither a host name"),
        ("knothole://bücher.example", "no other letters"),
        ("knothole://exa mple.org", "no spaces"),
        ("knothole://user@host", "no user name"),
        ("knothole://host/path", "no path"),
        ("knothole://host?udp=1", "does not know the option 'udp'"),
        ("knothole://host?tcp=", "not a port number"),
        ("knothole://host?tcp=1,2,3,4,5,6,7,8,9", "at most 8"),
        ("knothole://host#", "has 0 characters"),
        ("knothole://host#" + BASE32[:-1], "has 51 characters.*copy the whole line"),
        ("knothole://host#" + "1" + BASE32[1:], "characters that no pin has"),
        ("knothole://host#" + BASE32[:-1] + "r", "last character of the pin is wrong"),
        ("knothole://host#" + "!" * 43, "characters that no pin has"),
        ("knothole://host#" + "A" * 42 + "B", "last character of the pin is wrong"),
    ],
)
def test_a_wrong_address_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(InvalidServerUrl, match=complaint):
        parse_server_url(text)


def test_a_server_is_known_by_its_pin_or_else_by_its_name() -> None:
    pinned = ServerUrl("192.0.2.1", 1, (), PIN)
    assert pinned.identity == ServerUrl("moved.example", 2, (443,), PIN).identity == BASE32
    assert ServerUrl("::1").identity == "[::1]:3478"


@given(st.text(max_size=120) | st.text(max_size=100).map("knothole://".__add__))
def test_any_text_gives_an_address_or_the_one_error(text: str) -> None:
    try:
        url = parse_server_url(text)
    except InvalidServerUrl:
        return
    assert parse_server_url(format_server_url(url)) == url


@given(
    host=st.sampled_from(["example.org", "::1", "2001:db8::5", "192.0.2.7"]),
    port=st.integers(1, 65535),
    tcp=st.lists(st.integers(1, 65535), max_size=8, unique=True).map(tuple),
    pin=st.none() | st.binary(min_size=32, max_size=32),
)
def test_what_is_written_is_read_back(
    host: str, port: int, tcp: tuple[int, ...], pin: bytes | None
) -> None:
    url = ServerUrl(host, port, tcp, pin)
    assert parse_server_url(str(url)) == url

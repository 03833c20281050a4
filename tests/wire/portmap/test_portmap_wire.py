"""PCP, NAT-PMP and SSDP: bytes there and back, and what is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.portmap import natpmp, pcp, ssdp

NONCE = bytes(range(12))
MAPPED_V4 = bytes(10) + b"\xff\xff"
REQUEST = pcp.MapRequest("192.168.1.10", NONCE, 5000, 7200, Address("0.0.0.0", 5000))
EXTERNAL = MAPPED_V4 + bytes((1, 1, 1, 1))
GRANT = (
    bytes((2, 0x81, 0, 0)) + (600).to_bytes(4) + (7).to_bytes(4) + bytes(12)
    + NONCE + bytes((17, 0, 0, 0)) + (5000).to_bytes(2) + (6000).to_bytes(2) + EXTERNAL
)  # fmt: skip


def test_a_pcp_request_is_laid_out_as_the_rfc_draws_it() -> None:
    client = MAPPED_V4 + IPv4Address("192.168.1.10").packed
    assert pcp.encode_map_request(REQUEST) == (
        bytes((2, 1, 0, 0)) + (7200).to_bytes(4) + client
        + NONCE + bytes((17, 0, 0, 0)) + (5000).to_bytes(2) * 2 + MAPPED_V4 + bytes(4)
    )  # fmt: skip


def test_a_pcp_request_for_ipv6_names_ipv6_addresses() -> None:
    request = pcp.MapRequest("2001:db8::1", NONCE, 1, 0, Address("::", 0))
    data = pcp.encode_map_request(request)
    assert data[8:24] == IPv6Address("2001:db8::1").packed
    assert data[-16:] == bytes(16)


def test_a_nonce_of_another_size_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="nonce"):
        pcp.encode_map_request(pcp.MapRequest("1.1.1.1", b"short", 1, 1, Address("::", 0)))


def test_a_pcp_grant_is_read() -> None:
    expected = pcp.MapResponse(0, 600, 7, NONCE, 5000, Address("1.1.1.1", 6000))
    assert pcp.decode_response(GRANT) == expected


def test_options_behind_a_pcp_grant_are_passed_over() -> None:
    assert pcp.decode_response(GRANT + bytes(8)) == pcp.decode_response(GRANT)


def test_a_pcp_announcement_tells_the_epoch() -> None:
    data = bytes((2, 0x80, 0, 0)) + bytes(4) + (9).to_bytes(4) + bytes(12)
    assert pcp.decode_response(data) == pcp.Announcement(9)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GRANT[:23],
        GRANT[:56],
        GRANT + b"\0",
        GRANT + bytes(1100),
        b"\x01" + GRANT[1:],
        GRANT[:1] + b"\x01" + GRANT[2:],
        GRANT[:1] + b"\x82" + GRANT[2:],
        GRANT[:36] + b"\x06" + GRANT[37:],
    ],
)
def test_what_is_no_pcp_answer_to_us_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        pcp.decode_response(data)


def test_nat_pmp_requests_are_laid_out_as_the_rfc_draws_them() -> None:
    assert natpmp.encode_address_request() == b"\0\0"
    assert natpmp.encode_map_request(5000, 6000, 7200) == (
        bytes(4) + (5000).to_bytes(2) + (6000).to_bytes(2) + (7200).to_bytes(4)
    ).replace(bytes(4), b"\0\x01\0\0", 1)


def test_nat_pmp_answers_are_read() -> None:
    epoch = (7).to_bytes(4)
    assert natpmp.decode_response(b"\0\x80\0\0" + epoch + bytes((1, 1, 1, 1))) == (
        natpmp.AddressResponse(7, "1.1.1.1")
    )
    body = (5000).to_bytes(2) + (6000).to_bytes(2) + (600).to_bytes(4)
    assert natpmp.decode_response(b"\0\x81\0\0" + epoch + body) == (
        natpmp.MapResponse(7, 5000, 6000, 600)
    )
    assert natpmp.decode_response(b"\0\x81\0\x02" + epoch) == natpmp.Refusal(1, 2, 7)
    assert natpmp.decode_response(b"\0\0\0\x01" + epoch) == natpmp.Refusal(0, 1, 7)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\x80\0\0\0\0\0",
        b"\0\x80\0\0\0\0\0\0",
        b"\0\x80\0\0\0\0\0\0" + bytes(5),
        b"\0\x82\0\0\0\0\0\0" + bytes(8),
        b"\x02\x80\0\0\0\0\0\0" + bytes(4),
        b"\0\x00\0\0\0\0\0\0" + bytes(4),
    ],
)
def test_what_is_no_nat_pmp_answer_to_us_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        natpmp.decode_response(data)


def test_a_search_is_a_request_without_a_body() -> None:
    data = ssdp.encode_search(ssdp.GATEWAYS[0])
    assert data.startswith(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n")
    assert data.endswith(b"ST: " + ssdp.GATEWAYS[0].encode() + b"\r\n\r\n")


def test_a_search_answer_names_its_target_and_the_description() -> None:
    data = b"HTTP/1.1 200 OK\r\nst: urn:x\r\nLocation:  http://192.168.1.1:80/d.xml\r\n\r\n"
    assert ssdp.decode_answer(data) == ssdp.SearchAnswer("urn:x", "http://192.168.1.1:80/d.xml")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"NOTIFY * HTTP/1.1\r\nST: urn:x\r\nLOCATION: http://a/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nST: urn:x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION: http://a/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nST: urn:x\r\nLOCATION: http://a/" + b"a" * 3000,
    ],
)
def test_what_is_no_search_answer_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        ssdp.decode_answer(data)


@settings(derandomize=True, deadline=None)
@given(
    st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(
        min_size=12, max_size=12
    ), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 2**128 - 1),
)  # fmt: skip
def test_every_field_of_a_pcp_grant_arrives(
    result: int, lifetime: int, epoch: int, nonce: bytes, internal: int, external: int, host: int
) -> None:
    data = (
        bytes((2, 0x81, 0, result)) + lifetime.to_bytes(4) + epoch.to_bytes(4) + bytes(12)
        + nonce + bytes((17, 0, 0, 0)) + internal.to_bytes(2) + external.to_bytes(2)
        + host.to_bytes(16)
    )  # fmt: skip
    got = pcp.decode_response(data)
    assert isinstance(got, pcp.MapResponse)
    ip = IPv6Address(host)
    assert got == pcp.MapResponse(
        result, lifetime, epoch, nonce, internal, Address(str(ip.ipv4_mapped or ip), external)
    )

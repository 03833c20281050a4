"""The candidate line of RFC 8839 Section 5.1."""

from __future__ import annotations

import pytest

from knothole.wire.address import Address
from knothole.wire.candidate import (
    Candidate,
    CandidateKind,
    candidate_priority,
    decode_candidate,
    encode_candidate,
)
from knothole.wire.malformed import MalformedMessage

HOST = Candidate("1", 1, "udp", 2130706431, Address("192.0.2.7", 8998), CandidateKind.HOST)

LINES = {
    "candidate:1 1 udp 2130706431 192.0.2.7 8998 typ host": HOST,
    # RFC 8839 Section 5.1
    "candidate:2 1 udp 1694498815 192.0.2.3 45664 typ srflx raddr 203.0.113.141 rport 8998": (
        Candidate(
            "2",
            1,
            "udp",
            1694498815,
            Address("192.0.2.3", 45664),
            CandidateKind.SERVER_REFLEXIVE,
            Address("203.0.113.141", 8998),
        )
    ),
    # what libnice writes
    "candidate:6 1 tcp 1015021823 10.0.0.2 9 typ host tcptype active": Candidate(
        "6", 1, "tcp", 1015021823, Address("10.0.0.2", 9), CandidateKind.HOST, tcp_type="active"
    ),
    # what Chromium writes
    "candidate:842163049 1 udp 1677729535 2001:db8::5 50001 typ relay raddr :: rport 0"
    " generation 0 ufrag EsAw network-id 1 network-cost 10": Candidate(
        "842163049",
        1,
        "udp",
        1677729535,
        Address("2001:db8::5", 50001),
        CandidateKind.RELAYED,
        Address("::", 0),
        generation=0,
        ufrag="EsAw",
        extensions=(("network-id", "1"), ("network-cost", "10")),
    ),
    "candidate:a+/Z 256 udp 1 10.0.0.1 1 typ prflx raddr 10.0.0.2 rport 2": Candidate(
        "a+/Z",
        256,
        "udp",
        1,
        Address("10.0.0.1", 1),
        CandidateKind.PEER_REFLEXIVE,
        Address("10.0.0.2", 2),
    ),
}


@pytest.mark.parametrize(("line", "candidate"), LINES.items())
def test_line_and_candidate_are_the_same_thing(line: str, candidate: Candidate) -> None:
    assert decode_candidate(line) == candidate
    assert encode_candidate(candidate) == line


@pytest.mark.parametrize(
    "line",
    [
        "a=candidate:1 1 udp 2130706431 192.0.2.7 8998 typ host",
        "a=candidate:1 1 udp 2130706431 192.0.2.7 8998 typ host\r\n",
        "candidate:1 1 UDP 2130706431 192.0.2.7 8998 typ host",
        "CANDIDATE:1 1 udp 2130706431 192.0.2.7 8998 TYP host",
        "candidate:1 01 udp 2130706431 192.0.2.7 08998 typ host",
    ],
)
def test_spelling_does_not_matter(line: str) -> None:
    assert decode_candidate(line) == HOST


def test_address_becomes_canonical() -> None:
    line = "candidate:1 1 udp 1 2001:0DB8:0:0::0005 1 typ host"
    assert decode_candidate(line).address == Address("2001:db8::5", 1)


def test_first_of_a_repeated_extension_counts() -> None:
    line = "candidate:1 1 udp 1 10.0.0.1 1 typ host ufrag one ufrag two x 1 x 2"
    candidate = decode_candidate(line)
    assert candidate.ufrag == "one"
    assert candidate.extensions == (("x", "1"), ("x", "2"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "candidate:",
        "candidate:1 1 udp 1 10.0.0.1 1",
        "candidate:1 1 udp 1 10.0.0.1 1 typ",
        "candidate:1 1 udp 1 10.0.0.1 1 typ host odd",
        "candidate:1  1 udp 1 10.0.0.1 1 typ host",
        "candidate:1 0 udp 1 10.0.0.1 1 typ host",
        "candidate:1 257 udp 1 10.0.0.1 1 typ host",
        "candidate:1 1 udp 0 10.0.0.1 1 typ host",
        "candidate:1 1 udp 2147483648 10.0.0.1 1 typ host",
        "candidate:1 1 udp 1 10.0.0.1 65536 typ host",
        "candidate:1 1 udp 1 10.0.0.1 x typ host",
        "candidate:1 1 udp 1 10.0.0.256 1 typ host",
        "candidate:1 1 udp 1 abc123.local 1 typ host",
        "candidate:1 1 udp 1 fe80::1%eth0 1 typ host",
        "candidate:1 1 udp 1 10.0.0.1 1 typ strange",
        "candidate:1 1 udp 1 10.0.0.1 1 typ srflx raddr 10.0.0.2",
        "candidate:1 1 udp 1 10.0.0.1 1 typ srflx rport 1",
        "candidate:1 1 udp 1 10.0.0.1 1 typ srflx raddr x rport 1",
        "candidate:1 1 udp 1 10.0.0.1 1 typ srflx raddr 10.0.0.2 rport x",
        "candidate:1 1 tcp 1 10.0.0.1 1 typ host tcptype other",
        "candidate:1 1 udp 1 10.0.0.1 1 typ host generation -1",
        "candidate:1 1 udp 1 10.0.0.1 1 typ host generation \u0663",
        "candidate:1 1 udp 1 10.0.0.1 \u0661 typ host",
        "candidate:{} 1 udp 1 10.0.0.1 1 typ host".format("1" * 33),
        "candidate:1 1 udp 1 10.0.0.1 1 typ host" + " a b" * 1000,
    ],
)
def test_what_is_no_usable_candidate_is_malformed(line: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_candidate(line)


def test_what_no_line_can_carry_is_the_callers_error() -> None:
    for candidate in (
        Candidate("", 1, "udp", 1, Address("10.0.0.1", 1), CandidateKind.HOST),
        Candidate("1", 1, "udp", 1, Address("10.0.0.1", 1), CandidateKind.HOST, ufrag="a b"),
        Candidate("1", 1, "udp", 1, Address("10.0.0.1", 1), CandidateKind.HOST, ufrag="a\r\nb"),
    ):
        with pytest.raises(ValueError):
            encode_candidate(candidate)


def test_rfc8445_priorities() -> None:
    # RFC 8445 Section 5.1.2.1: (2^24)*type + (2^8)*local + (256 - component)
    assert candidate_priority(CandidateKind.HOST, 65535) == 2130706431
    assert candidate_priority(CandidateKind.SERVER_REFLEXIVE, 65535) == 1694498815
    assert candidate_priority(CandidateKind.PEER_REFLEXIVE, 65535) == 1862270975
    assert candidate_priority(CandidateKind.RELAYED, 65535, component=2) == 16777214
    for local_preference, component in ((-1, 1), (65536, 1), (0, 0), (0, 257)):
        with pytest.raises(ValueError):
            candidate_priority(CandidateKind.HOST, local_preference, component)

"""Neither word alone makes a target."""

from __future__ import annotations

import pytest

from knothole.engine.predict.vouched import VouchedHost, vouch
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind


def named(host: str, kind: CandidateKind = CandidateKind.SERVER_REFLEXIVE, priority: int = 1):
    return Candidate("1", 1, "udp", priority, Address(host, 5000), kind)


def test_an_address_in_both_words_is_vouched_for() -> None:
    vouched = vouch([named("10.0.0.2"), named("1.1.1.1")], ["1.1.1.1"])
    assert vouched is not None
    assert vouched.at(7) == Address("1.1.1.1", 7)


@pytest.mark.parametrize(
    ("host", "observed"),
    [
        ("8.8.8.8", ["1.1.1.1"]),  # the peer lies
        ("1.1.1.1", ["8.8.8.8"]),  # the server lies
        ("1.1.1.1", []),  # the server says nothing
        ("10.0.0.2", ["10.0.0.2"]),  # not public
        ("127.0.0.1", ["127.0.0.1"]),
        ("224.0.0.1", ["224.0.0.1"]),
        ("2001:db8::1", ["2001:db8::1"]),
    ],
)
def test_one_word_alone_or_no_public_address_makes_no_target(
    host: str, observed: list[str]
) -> None:
    assert vouch([named(host)], observed) is None


def test_the_relay_is_not_the_peer() -> None:
    assert vouch([named("3.3.3.3", CandidateKind.RELAYED)], ["3.3.3.3"]) is None


def test_of_two_the_better_candidate_counts() -> None:
    both = [named("1.1.1.1", priority=5), named("2.2.2.2", priority=9)]
    vouched = vouch(both, ["1.1.1.1", "2.2.2.2"])
    assert vouched is not None
    assert vouched.host == "2.2.2.2"


def test_a_network_of_ones_own_can_be_allowed() -> None:
    assert vouch([named("10.0.0.2")], ["10.0.0.2"], private=True) is not None


def test_nothing_but_both_words_makes_one() -> None:
    with pytest.raises(TypeError, match="both words"):
        VouchedHost("8.8.8.8", key=None)

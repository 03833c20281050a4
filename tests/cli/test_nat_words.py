"""What a NAT does, in words: RFC 4787's where it is known, and what is not known says so."""

from __future__ import annotations

import pytest

from knothole.cli.nat import FACTS, describe, facts
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.wire.address import Address

BASE = Address("192.168.1.10", 5000)
ONE, SAME_HOST, OTHER = Address("3.3.3.3", 3478), Address("3.3.3.3", 3479), Address("3.3.3.4", 3478)
KEPT, FIRST, SECOND = Address("1.1.1.1", 5000), Address("1.1.1.1", 6000), Address("1.1.1.1", 6001)


def words(**seen: object) -> dict[str, str]:
    return dict(describe(NatBehaviour(BASE, **seen)))  # type: ignore[arg-type]


def test_without_udp_nothing_is_claimed() -> None:
    assert words() == {}


def test_no_nat_is_said_plainly() -> None:
    said = words(mapped={ONE: BASE, OTHER: BASE}, answered_from_other_host=True)
    assert said["NAT"].startswith("none")
    assert said["Filtering"] == "endpoint-independent"
    assert said["Lines"] == "direct with nearly everybody"
    assert "Mapping" not in said


def test_a_nat_of_linux_is_described_in_the_standards_terms() -> None:
    said = words(
        mapped={ONE: KEPT, SAME_HOST: KEPT, OTHER: KEPT},
        answered_from_other_host=False,
        answered_from_other_port=False,
        hairpinning=False,
    )
    assert said == {
        "NAT": "192.168.1.10 becomes 1.1.1.1",
        "Ports": "kept",
        "Mapping": "endpoint-independent",
        "Filtering": "address-and-port-dependent",
        "Hairpinning": "no",
        "Lines": "direct, unless the other side's mapping depends on whom it talks to",
    }


def test_ports_that_change_are_named() -> None:
    said = words(mapped={ONE: FIRST, SAME_HOST: SECOND}, answered_from_other_port=False)
    assert said["Ports"] == "changed (5000 became 6000, 6001)"
    assert said["Mapping"] == "address-and-port-dependent"
    assert "relay" in said["Lines"]


@pytest.mark.parametrize("mapped", [{ONE: KEPT}, {ONE: KEPT, SAME_HOST: KEPT}])
def test_one_server_address_tells_less_and_that_is_said(mapped: dict[Address, Address]) -> None:
    said = words(mapped=mapped)
    assert "server" in said["Mapping"]
    assert said["Filtering"].startswith("not known")
    assert said["Hairpinning"] == "not known"


def test_programs_get_null_for_what_is_not_known() -> None:
    assert facts(None) == dict.fromkeys(FACTS)
    seen = facts(NatBehaviour(BASE, {ONE: KEPT}))
    assert seen["translated"] is True
    assert seen["mapping"] is None
    assert seen["mapped"] == {"3.3.3.3:3478": "1.1.1.1:5000"}

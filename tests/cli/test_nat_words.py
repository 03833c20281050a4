"""What a NAT does, in words: RFC 4787's where it is known, and what is not known says so."""

from __future__ import annotations

import pytest

from knothole.cli.nat import FACTS, describe, facts, ports_of, rows
from knothole.engine.stun.assignment import Sample
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.wire.address import Address
from knothole.wire.nat import Modular, Offset, PortAssignment, Preserved, Random, Sequential

BASE = Address("192.168.1.10", 5000)
ONE, SAME_HOST, OTHER = Address("3.3.3.3", 3478), Address("3.3.3.3", 3479), Address("3.3.3.4", 3478)
KEPT, FIRST, SECOND = Address("1.1.1.1", 5000), Address("1.1.1.1", 6000), Address("1.1.1.1", 6001)


def words(**seen: object) -> dict[str, str]:
    behaviour = NatBehaviour(BASE, **seen)  # type: ignore[arg-type]
    return dict(describe(behaviour, behaviour.report()))


def samples(*ports: tuple[int, int]) -> tuple[Sample, ...]:
    return tuple(
        Sample(0.0, number, Address(BASE.host, inside), Address("1.1.1.1", outside))
        for number, (inside, outside) in enumerate(ports)
    )


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        (None, "not known: too few samples"),
        (Preserved(), "kept"),
        (Offset(30000), "inside port + 30000"),
        (Offset(-7), "inside port - 7"),
        (Modular(30000, 10000), "30000 + inside port mod 10000"),
        (Sequential(-2), "in sequence, each -2"),
        (Random(1024, 3071), "random, from 1024 to 3071 or less"),
    ],
)
def test_port_assignment_is_said_as_a_rule(ports: PortAssignment | None, said: str) -> None:
    assert ports_of(ports) == said


def test_every_row_has_its_evidence() -> None:
    behaviour = NatBehaviour(
        BASE,
        {ONE: FIRST, SAME_HOST: SECOND},
        None,
        False,
        False,
        samples((5000, 6000), (5000, 6001), (20001, 6002), (40000, 6003), (41000, 6004)),
    )
    shown = {row.name: row for row in rows(behaviour, behaviour.report())}
    assert shown["mapping"].evidence == "port 5000: 3.3.3.3:3478 sees 6000, 3.3.3.3:3479 sees 6001"
    assert shown["ports"].evidence == (
        "5 new mappings: 5000 -> 6000, 5000 -> 6001, 20001 -> 6002, 40000 -> 6003, ..."
    )
    assert shown["ports"].value == {"type": "sequential", "stride": 1}
    assert "from another port of the same did not come in" in shown["filtering"].evidence
    assert shown["hosts"].value == 1
    assert shown["levels"].value is None
    assert all(row.evidence for row in shown.values())


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
        samples=samples((5000, 5000), (20001, 20001)),
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
    said = words(
        mapped={ONE: FIRST, SAME_HOST: SECOND},
        answered_from_other_port=False,
        samples=samples((5000, 6000), (5000, 6001), (20001, 6002), (40000, 6003)),
    )
    assert said["Ports"] == "in sequence, each +1"
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

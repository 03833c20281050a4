"""A gateway that lies, and others who pretend to be one."""

from __future__ import annotations

import pytest

from knothole.wire.address import Address

from .conftest import BASE, GATEWAY, PUBLIC, SERVER, Network


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.5", "192.168.0.2", "100.64.3.4", "0.0.0.0", "224.0.0.1"]
)
def test_an_external_address_that_nobody_can_reach_is_told_but_not_public(
    network: Network, host: str
) -> None:
    network.gateway.host = host
    network.start()
    assert {mapping.external.host for mapping in network.mapper.mappings} == {host}
    assert not any(mapping.is_public for mapping in network.mapper.mappings)


def test_an_answer_with_another_nonce_changes_nothing(network: Network) -> None:
    network.gateway.nat_pmp = False
    network.gateway.change = lambda data: data[:24] + bytes(12) + data[36:]
    network.start()
    assert network.externals() == []
    assert network.progress()["PCP"] == "asking"


def test_an_answer_from_another_address_or_port_is_not_for_us(network: Network) -> None:
    network.gateway.pcp = network.gateway.nat_pmp = False
    network.start()
    network.gateway.pcp = True
    answer = network.gateway.answer(network.gateway.asked[0][1], 0.0)
    assert answer is not None
    for source in (Address("192.168.1.66", 5351), Address(GATEWAY, 5352)):
        network.deliver(answer, source)
    assert network.externals() == []
    network.deliver(answer, SERVER)
    assert network.externals() == [Address(PUBLIC, BASE.port)]


def test_a_mapping_for_another_port_is_not_ours(network: Network) -> None:
    def change(data: bytes) -> bytes:
        if data[0] == 2:
            return data[:40] + (22).to_bytes(2) + data[42:]
        return data if data[1] == 128 else data[:8] + (22).to_bytes(2) + data[10:]

    network.gateway.change = change
    network.start()
    assert network.externals() == []


@pytest.mark.parametrize("what", ["lifetime", "port"])
def test_a_mapping_with_no_lifetime_or_no_port_is_a_refusal_and_no_loop(
    network: Network, what: str
) -> None:
    setattr(network.gateway, what, 0)
    network.start()
    network.run(100)
    assert network.externals() == []
    assert network.progress() == {"PCP": "refused", "NAT-PMP": "refused"}
    assert len(network.gateway.asked) < 10


def test_a_huge_lifetime_counts_as_a_day(network: Network) -> None:
    network.gateway.lifetime = 0xFFFFFFFF
    network.start()
    assert {mapping.lifetime_seconds for mapping in network.mapper.mappings} == {86400}
    network.run(86400)
    assert len(network.requests(2)) >= 2


def test_a_tiny_lifetime_makes_no_flood(network: Network) -> None:
    network.gateway.lifetime = 1
    network.start()
    network.run(60)
    assert len(network.requests(2)) <= 61
    assert len(network.requests(0)) <= 122


@pytest.mark.parametrize("result", [2, 8, 12, 200])
def test_a_refusal_is_told_with_its_name_and_tried_again_later(
    network: Network, result: int
) -> None:
    network.gateway.pcp_result, network.gateway.lifetime = result, 60
    network.gateway.nat_pmp = False
    network.start()
    [pcp] = [each for each in network.mapper.attempts if each.protocol.value == "PCP"]
    assert pcp.progress.value == "refused"
    assert pcp.detail in ("NOT_AUTHORIZED", "NO_RESOURCES", "ADDRESS_MISMATCH", "result 200")
    network.gateway.pcp_result = 0
    network.run(61)
    assert network.externals() == [Address(PUBLIC, BASE.port)]


def test_a_refused_renewal_ends_the_mapping(network: Network) -> None:
    network.gateway.lifetime = 600
    network.start()
    network.gateway.pcp_result = network.gateway.nat_pmp_result = 2
    network.run(400)
    assert network.externals() == []


def test_nat_pmp_answers_that_nobody_asked_for_change_nothing(network: Network) -> None:
    network.start()
    network.run(10)
    changes, asked = network.changes, len(network.gateway.asked)
    for port in range(1000):
        body = BASE.port.to_bytes(2) + port.to_bytes(2) + (600).to_bytes(4)
        network.deliver(b"\0\x81\0\0" + bytes(4) + body)
        network.deliver(b"\0\x80\0\0" + bytes(4) + bytes((9, 9, 9, 9)))
        network.deliver(b"\0\x81\0\x02" + bytes(4))
    network.settle()
    assert (network.changes, len(network.gateway.asked)) == (changes, asked)
    assert network.externals() == [Address(PUBLIC, BASE.port)]


def test_announcements_in_numbers_make_no_flood(network: Network) -> None:
    network.start()
    asked = len(network.gateway.asked)
    for epoch in [1000, 0] * 500:
        data = b"\0\x80\0\0" + epoch.to_bytes(4) + bytes((1, 1, 1, 1))
        network.mapper.announced(GATEWAY, data, network.now)
        network.settle()
    network.run(20)
    assert len(network.gateway.asked) - asked <= 6


def test_any_bytes_from_the_gateway_are_borne(network: Network) -> None:
    network.start()
    for first in range(256):
        for second in (0, 1, 128, 129, 255):
            for size in (0, 1, 6, 10, 14, 22, 58, 70):
                network.deliver(bytes((first, second)) + bytes(size))
    network.deliver(b"")
    network.run(1)
    assert network.externals() == [Address(PUBLIC, BASE.port)]

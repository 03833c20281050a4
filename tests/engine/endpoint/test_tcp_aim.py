"""Where the next TCP connection will be seen to come from, by what the server saw."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.tcp_aim import Sample, TcpAim, aim_of
from knothole.wire.address import Address

FIRST, SECOND = Address("192.168.1.10", 40000), Address("192.168.1.10", 40011)
MAIN, OTHER = Address("3.3.3.3", 3478), Address("3.3.3.3", 443)


def seen(*ports: int) -> TcpAim | None:
    """First port to the server, second port to the server, first port to its other port."""
    ways = [(FIRST, MAIN), (SECOND, MAIN), (FIRST, OTHER)]
    return aim_of(
        [Sample(*way, Address("1.1.1.1", port)) for way, port in zip(ways, ports, strict=False)]
    )


def ports_of(aim: TcpAim | None) -> list[int]:
    assert aim is not None
    return [address.port for address in aim.addresses]


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ((40000, 40011, 40000), [40000]),
        ((30000, 30011, 30000), [30000]),
        ((30000, 30011), [30000]),
        ((51234, 23456, 51234), [51234]),
        ((30001, 30002, 30003), [30004, 30005, 30006]),
        ((30001, 30002), [30003, 30004, 30005]),
        ((30009, 30007, 30005), [30003, 30001, 29999]),
        ((30002, 30004, 30009), [30011, 30013, 30015]),
        ((51234,), [51234]),
    ],
    ids=[
        "kept",
        "computed",
        "computed, one server port",
        "one mapping",
        "counted",
        "counted, one server port",
        "counted down by two",
        "counted by two in a busy network",
        "nothing else known",
    ],
)
def test_the_next_port_is_told_by_the_last_ones(
    ports: tuple[int, ...], expected: list[int]
) -> None:
    aim = seen(*ports)
    assert ports_of(aim) == expected
    assert aim is not None and aim.base == FIRST


def test_a_port_that_is_kept_is_preferred_to_one_that_was_taken_by_a_neighbour() -> None:
    aim = seen(61000, 40011, 61000)
    assert aim is not None and (aim.base, ports_of(aim)) == (SECOND, [40011])


def test_ports_by_chance_are_not_aimed_at() -> None:
    assert seen(51234, 23456, 4711) is None
    assert aim_of([]) is None


def test_counting_ends_where_there_are_no_more_ports() -> None:
    assert ports_of(seen(65532, 65533, 65534)) == [65535]

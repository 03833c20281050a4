"""NATs in a row, told from the first routers on the way."""

from __future__ import annotations

import pytest

from knothole.engine.stun.levels import nat_levels


@pytest.mark.parametrize(
    ("base", "routers", "levels"),
    [
        ("192.168.1.10", ["192.168.1.1", "203.0.113.1"], 1),
        ("192.168.1.10", ["192.168.1.1", "100.64.0.1", "203.0.113.1"], 2),
        ("192.168.1.10", ["192.168.1.1", "10.0.0.1", "100.64.0.1", "203.0.113.1"], 3),
        ("10.1.2.3", ["10.1.2.1", "203.0.113.1", "203.0.113.9"], 1),
        ("198.51.100.7", ["203.0.113.1"], 0),
    ],
)
def test_a_nat_stands_where_a_private_space_ends(
    base: str, routers: list[str | None], levels: int
) -> None:
    assert nat_levels(base, routers) == levels


@pytest.mark.parametrize(
    "routers",
    [
        [],
        [None, None],
        ["192.168.1.1", None, "203.0.113.1"],
        ["192.168.1.1", "192.168.0.1", "203.0.113.1"],  # a second NAT, or a second router
        ["192.168.1.1", "10.0.0.1", "10.0.0.2", "203.0.113.1"],
        ["192.168.1.1", "100.64.0.1"],  # and then?
    ],
)
def test_what_cannot_be_told_is_not_told(routers: list[str | None]) -> None:
    assert nat_levels("192.168.1.10", routers) is None

"""The first guess of what a NAT does."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.guess import guessed_report
from knothole.engine.predict.plan import Shape, shape_of
from knothole.wire.address import Address
from knothole.wire.nat import Random

BASE = Address("10.0.0.2", 5000)
SERVERS = Address("3.3.3.3", 3478), Address("3.3.3.4", 3478)


@pytest.mark.parametrize(
    ("ports", "shape"),
    [
        ((5000, 5000), Shape.FIXED),
        ((30001, 60000), Shape.RANDOM),
        ((30001, 30002), Shape.UNKNOWN),
        ((20200, 20190), Shape.UNKNOWN),
    ],
)
def test_two_ports_near_each_other_are_no_guess(ports: tuple[int, int], shape: Shape) -> None:
    mapped = {
        BASE: {
            server: Address("1.1.1.1", port) for server, port in zip(SERVERS, ports, strict=True)
        }
    }
    report = guessed_report(mapped)
    assert shape_of(report) is shape
    if shape is Shape.RANDOM:
        assert report is not None and report.ports == Random(1024, 65535)

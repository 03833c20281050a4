"""The benchmark of allocations, short: that it makes and holds them, not what comes out."""

from __future__ import annotations

import json

import pytest

from knothole.lab.bench import allocations

pytestmark = [pytest.mark.netns, pytest.mark.interop]


def test_each_relay_makes_them_and_those_that_are_held_are_still_there(capsys) -> None:
    assert allocations.main(["--count", "60", "--hold", "620", "--json"]) == 0
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    made = [(each["relay"], each["count"]) for each in figures]
    assert made == [("coturn", 60), ("knothole", 60), ("knothole, held", 620)]
    assert all(each["per_second"] > 0 and each["per_core"] > 0 for each in figures)
    assert all(each["resident"] > 1000 for each in figures)

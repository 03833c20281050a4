"""The benchmark of allocations, short: that it makes and holds them, not what comes out."""

from __future__ import annotations

import json

import pytest

from knothole.lab.bench import allocations

pytestmark = [pytest.mark.netns, pytest.mark.interop]


def test_each_relay_makes_them_and_those_that_are_held_are_still_there(capsys, monkeypatch) -> None:
    monkeypatch.setattr(allocations, "FOR_OTHERS", allocations.descriptors() - 600)
    assert allocations.main(["--count", "60", "--rounds", "1", "--hold", "620", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("2 relay processes: the system lets one open ")
    figures = [json.loads(line) for line in out.splitlines()]
    made = [(each["relay"], each["processes"], each["count"]) for each in figures]
    assert made == [("coturn", 1, 60), ("knothole", 1, 60), ("knothole, held", 3, 620)]
    assert all(each["per_second"] > 0 and each["per_core"] > 0 for each in figures)
    assert all(each["resident"] >= each["proportional"] > 1000 for each in figures)
    assert [each["refreshed"] for each in figures] == [0, 0, 620]


def test_what_is_held_is_told_in_words(capsys) -> None:
    assert allocations.main(["--count", "0", "--hold", "20"]) == 0
    words = capsys.readouterr().out.splitlines()[-1]
    assert words.startswith("20 of 20 refreshed afterwards, by 2 processes on one core: RSS ")
    assert words.endswith("within 1 GiB")

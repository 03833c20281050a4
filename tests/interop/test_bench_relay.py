"""The relay benchmark, short: that it measures every way with every cell, not what comes out."""

from __future__ import annotations

import json

import pytest

from knothole.lab.bench import relay

pytestmark = [pytest.mark.netns, pytest.mark.interop]


def test_every_way_is_measured_in_both_directions_singly_and_in_bursts(capsys) -> None:
    run = ["--allocations", "3", "--sizes", "160", "--rate", "2000"]
    run += ["--seconds", "0.1", "--rounds", "2"]
    assert relay.main([*run, "--json"]) == 0
    printed = capsys.readouterr()
    figures = [json.loads(line) for line in printed.out.splitlines()]
    ways = ["direct", "forwarded by the kernel", "coturn", "user-space", "accelerator"]
    if "the accelerator is off" in printed.err:  # the kernel does not let us
        ways.pop()
    assert list(dict.fromkeys(each["way"] for each in figures)) == ways
    for way in ways:
        cells = [each["cell"] for each in figures if each["way"] == way]
        assert [(cell["direction"], cell["bursts"]) for cell in cells] == [
            ("to peer", False),
            ("to client", False),
            ("to peer", True),
            ("to client", True),
        ]
    assert all(len(each["samples"]) == 2 for each in figures)
    assert all(each["per_second"] > 0 and each["latency_us"] > 0 for each in figures)
    relayed = [each for each in figures if each["way"] in ("coturn", "user-space")]
    assert all(each["server_us"] > 0 and each["per_core"] > 0 for each in relayed)


def test_the_table_shows_each_cell_with_ratios_and_then_what_of_the_demands_is_reached(
    capsys,
) -> None:
    run = ["--allocations", "1", "--sizes", "1200", "--rate", "2000"]
    run += ["--seconds", "0.1", "--rounds", "2"]
    assert relay.main([*run, "--no-bursts"]) == 0
    shown = capsys.readouterr().out
    assert "1 allocation, 1200 bytes to peer, singles" in shown
    assert "1 allocation, 1200 bytes to client, singles" in shown
    assert shown.count("  coturn") == shown.count("  user-space") == 2
    assert "user space, datagrams per core: at least 0.85 of coturn's: " in shown
    assert "user space, bursts, datagrams per core: at least 2x coturn's: not measured" in shown

"""``knothole lab matrix``: what it refuses, and one small matrix."""

from __future__ import annotations

import json
import sys

import pytest

from knothole.cli.app import run


@pytest.mark.skipif(sys.platform != "linux", reason="the lab needs Linux")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["magic"], "no kind of NAT here"),
        (["linux+magic"], "is no word here"),
        (["none", "--same-nat"], "one address for one client"),
        (["linux", "--same-nat", "--same-addresses"], "Only one of"),
        (["linux", "--same-carrier", "magic"], "no kind of NAT here"),
        (["linux", "--same-carrier", "none"], "translates"),
        (["linux", "--busy", "-1"], "--busy"),
        (["linux", "--runs", "0"], "--runs"),
    ],
)
def test_a_matrix_that_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lab", "matrix", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert "\n" not in said


@pytest.mark.netns
def test_a_matrix_tells_each_run_and_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["linux+hairpin", "eim-eif@5"]
    options = ["--runs", "1", "--same-nat", "--busy", "2", "--json"]
    assert run(["lab", "matrix", *kinds, *options]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["run", "run", "matrix"]
    assert [event["verdict"] for event in events[:2]] == ["direct", "direct"]
    assert [row["nats"] for row in events[2]["rows"]] == [[kind, kind] for kind in kinds]
    assert "2 runs: 2 direct" in events[2]["summary"]

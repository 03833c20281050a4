"""The matrix judges by what the internet carried, whatever programs say of themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from knothole.lab.matrix import (
    TEN_KINDS,
    pairs_of,
    rows_of,
    run_matrix,
    to_json,
    to_markdown,
    to_text,
)
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.nat import Unsolicited
from knothole.lab.setting import Ipv6, Setting, Together
from knothole.lab.trial import Run, Trial, Verdict

STAND_IN = str(Path(__file__).with_name("stand_in.py"))
TEN_MS = Setting(line=LineSettings(one_way_seconds=0.010), settle_seconds=1.0, timeout_seconds=60.0)


def settled(verdict: Verdict, setting: Setting = TEN_MS) -> Setting:
    """``setting`` with patience for what should come, and little for what should not."""
    seconds = 40.0 if verdict is Verdict.DIRECT else 1.0
    return replace(setting, line=TEN_MS.line, settle_seconds=seconds, timeout_seconds=60.0)


class StandIns:
    """The stand-ins' command lines."""

    def __init__(self, *prefix: str) -> None:
        self._prefix = prefix

    def serve(self, addresses: Sequence[str], data: Path) -> list[str]:
        return [sys.executable, STAND_IN, "serve", addresses[0]]

    def join(self, name: str, url: str) -> list[str] | None:
        return None

    def work(self, name: str, profile: Path, url: str) -> list[str]:
        return [*self._prefix, sys.executable, STAND_IN, name, url.removeprefix("udp://")]


class Broken(StandIns):
    def work(self, name: str, profile: Path, url: str) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('no such thing')"]


@pytest.mark.netns
@pytest.mark.parametrize(
    ("nats", "verdict"),
    [
        (("linux", "linux"), Verdict.DIRECT),
        (("none", "firewall"), Verdict.DIRECT),
        (("range", "linux"), Verdict.DIRECT),
        (("random", "random"), Verdict.RELAYED),
        (("sequential", "linux"), Verdict.RELAYED),  # no port comes again by chance
    ],
)
def test_payload_is_found_where_it_goes(nats: tuple[str, str], verdict: Verdict) -> None:
    with Trial(nats, StandIns(), settled(verdict)) as trial:
        run = trial.run()
    assert (run.caller_nat, run.callee_nat, run.verdict) == (*nats, verdict), run.error
    assert run.first_at_callee is not None and run.first_at_caller is not None
    assert min(run.first_at_callee, run.first_at_caller) >= 0.020, "nothing outruns the line"
    assert run.packets > 4
    if verdict is Verdict.DIRECT:
        assert run.direct_after is not None and run.direct_after >= 0.020
    else:
        assert run.direct_after is None


@pytest.mark.netns
def test_a_program_that_only_says_it_is_direct_is_not_believed() -> None:
    with Trial(("linux", "linux"), StandIns("env", "LIAR=1"), TEN_MS) as trial:
        run = trial.run()
    assert run.verdict is Verdict.RELAYED
    assert run.direct_after is None


@pytest.mark.netns
def test_a_program_that_breaks_is_a_failed_run_with_its_words() -> None:
    [run] = run_matrix([("linux", "none")], runs=1, setting=TEN_MS, commands=Broken())
    assert run.verdict is Verdict.FAILED
    assert "no such thing" in run.error


@pytest.mark.netns
def test_the_two_ends_take_turns_and_a_bad_line_is_survived() -> None:
    line = LineSettings(one_way_seconds=0.030, jitter_seconds=0.005, loss=0.05)
    runs = run_matrix(
        [("linux", "range")],
        runs=3,
        setting=Setting(line=line, settle_seconds=40.0, timeout_seconds=60.0),
        commands=StandIns(),
    )
    assert [run.caller_nat for run in runs] == ["linux", "range", "linux"]
    assert {run.verdict for run in runs} == {Verdict.DIRECT}, [run.error for run in runs]


def test_pairs_are_every_two_of_the_kinds_and_each_with_itself() -> None:
    assert pairs_of(["none", "linux"]) == [("none", "none"), ("none", "linux"), ("linux", "linux")]
    assert pairs_of(["random"], ["none", "linux"]) == [("random", "none"), ("random", "linux")]
    assert len(pairs_of(TEN_KINDS)) == 55
    with pytest.raises(ValueError, match="no kind of NAT"):
        pairs_of(["none", "magic"])


def test_behind_one_nat_a_kind_is_a_pair() -> None:
    one_nat = Setting(together=Together.NAT)
    assert pairs_of(["linux", "range"], setting=one_nat) == [("linux", "linux"), ("range", "range")]
    with pytest.raises(ValueError, match="one address for one client"):
        pairs_of(["none"], setting=one_nat)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("setting", "nats", "verdict"),
    [
        (Setting(together=Together.NAT), ("linux+hairpin",) * 2, Verdict.DIRECT),
        (Setting(together=Together.NAT), ("linux",) * 2, Verdict.RELAYED),
        (
            Setting(together=Together.CARRIER, carrier="eim-apdf+hairpin"),
            ("linux", "range"),
            Verdict.DIRECT,
        ),
        (Setting(together=Together.CARRIER), ("linux", "range"), Verdict.RELAYED),
        (Setting(together=Together.ADDRESSES), ("linux", "range"), Verdict.DIRECT),
        (Setting(ipv6=Ipv6.ONE, busy=20.0), ("linux", "carrier"), Verdict.DIRECT),
        (Setting(unsolicited=Unsolicited.REJECT), ("linux", "eim-eif"), Verdict.DIRECT),
    ],
)
def test_direct_is_told_from_relayed_in_every_setting(
    setting: Setting, nats: tuple[str, str], verdict: Verdict
) -> None:
    """The stand-ins know their mapped addresses only."""
    with Trial(nats, StandIns(), settled(verdict, setting)) as trial:
        run = trial.run()
    assert run.verdict is verdict, run.error
    assert (run.direct_after is not None) is (verdict is Verdict.DIRECT)


RUNS = [
    Run("linux", "range", Verdict.DIRECT, 0.05, 0.06, 0.1, 12),
    Run("range", "linux", Verdict.DIRECT, 0.08, 0.04, 0.2, 14),
    Run("random", "random", Verdict.RELAYED, 0.10, 0.11, None, 20),
    Run("random", "random", Verdict.FAILED, error="bob: it went wrong"),
]


def test_a_row_counts_the_runs_of_a_pair_whoever_called() -> None:
    linux, random = rows_of(RUNS)
    assert linux.nats == ("linux", "range")
    assert (linux.runs, linux.direct, linux.relayed, linux.failed) == (2, 2, 0, 0)
    assert (linux.first_median, linux.first_worst) == (0.07, 0.08)
    assert linux.packets_median == 13
    assert (random.direct, random.relayed, random.failed) == (0, 1, 1)


def test_the_table_is_written_as_text_markdown_and_json() -> None:
    text, markdown = to_text(RUNS), to_markdown(RUNS)
    assert "4 runs: 2 direct, 1 relayed, 1 failed. First payload at both ends: median" in text
    assert "Direct: median 0.150 s, worst 0.200 s." in text
    assert "| linux - range | 2 | 2 | 0 | 0 | 0.070 s | 0.080 s | 0.150 s | 13 |" in markdown
    assert "random calls random: bob: it went wrong" in markdown
    facts = json.loads(to_json(RUNS))
    assert [run["verdict"] for run in facts["runs"]] == ["direct", "direct", "relayed", "failed"]
    assert len({line.count("|") for line in markdown.splitlines() if "|" in line}) == 1

"""What a call remembers of how it came about: for people who ask why."""

from __future__ import annotations

import msgspec

from knothole.engine.endpoint.events import CallOver, HistoryChanged
from knothole.engine.endpoint.history import (
    FIRST_STEPS,
    LAST_STEPS,
    CallHistory,
    Ended,
    GaveUp,
    History,
    PathUsed,
    PlanChosen,
    Probed,
    Sampled,
)
from knothole.wire.address import Address


def test_packets_of_one_kind_to_one_host_are_one_step_with_their_sum() -> None:
    history = History(10.0)
    history.note(Probed("scan", 100, "2.2.2.2", 5000, 5099), 10.5)
    history.note(Probed("scan", 50, "2.2.2.2", 4950, 4999), 10.6)
    history.note(Probed("scan", 1, "2.2.2.3", 1, 1), 10.7)
    assert [noted.step for noted in history.steps] == [
        Probed("scan", 150, "2.2.2.2", 4950, 5099),
        Probed("scan", 1, "2.2.2.3", 1, 1),
    ]
    assert history.steps[0].at_seconds == 0.5


def test_the_first_and_the_newest_steps_are_kept_and_the_others_counted() -> None:
    history = History(0.0)
    for port in range(1, 1001):
        history.note(Sampled(Address("1.1.1.1", port)), float(port))
    kept = [noted.at_seconds for noted in history.steps]
    assert kept[:FIRST_STEPS] == [float(n) for n in range(1, FIRST_STEPS + 1)]
    assert kept[FIRST_STEPS:] == [float(n) for n in range(1001 - LAST_STEPS, 1001)]
    assert history.omitted == 1000 - FIRST_STEPS - LAST_STEPS


def test_a_step_that_says_nothing_new_changes_nothing() -> None:
    history = History(0.0)
    history.note(GaveUp("nothing came"), 1.0)
    assert history.take_changed()
    history.note(GaveUp("nothing came"), 2.0)
    assert not history.take_changed()
    assert len(history.steps) == 1


def test_a_direct_line_tells_its_paths_its_checks_and_its_end(town) -> None:
    alice, _ = town.resident("alice", "linux"), town.resident("bob", "linux")
    town.settle()
    call_id = alice.call("bob")
    town.run(3.0)
    now = alice.endpoint.history(call_id, town.world.now)
    assert now is not None
    paths = [noted.step for noted in now.steps if isinstance(noted.step, PathUsed)]
    assert not paths[-1].relayed
    assert paths[-1].remote is not None
    assert paths[-1].remote.host == "2.2.2.2"
    assert sum(count.answered for count in now.checks if count.local == "host") >= 1
    assert {count.kind for count in now.theirs} == {"host", "srflx", "relay"}
    alice.hang_up(call_id, "enough")
    town.run(1.0)
    told = [each for each in alice.events(HistoryChanged) if each.call_id == call_id]
    assert told[-1].history.over
    assert told[-1].history.steps[-1].step == Ended("closed here: enough")
    assert alice.endpoint.history(call_id, town.world.now) is None
    order = [type(event) for _, event in alice.program.events]
    assert order.index(CallOver) > max(
        at for at, kind in enumerate(order) if kind is HistoryChanged
    ), "nothing is said of a call after its end"


def test_a_history_survives_the_way_to_a_file_and_back() -> None:
    history = History(0.0)
    history.note(PlanChosen("bracket", "their ports go up by one", odds=0.9), 0.1)
    history.note(Sampled(Address("1.1.1.1", 4000)), 0.2)
    history.note(PathUsed(True, Address("9.9.9.9", 50000), Address("2.2.2.2", 4000)), 0.3)
    value = CallHistory("bob", False, "ping", 1.0, False, history.steps)
    data = msgspec.json.encode(value)
    assert msgspec.json.decode(data, type=CallHistory) == value

"""``knothole why``."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from knothole.cli.app import run
from knothole.engine.endpoint.history import CallHistory, Noted, PlanChosen, PoolKnown
from knothole.peer.profile import Profile
from knothole.wire.server_url import ServerUrl

from .conftest import PATIENCE, Person


def going_on(person: Person, other: Person) -> dict[str, Any]:
    """What ``why`` tells of a line that goes on, once it is written."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        _, events = person.events("why", other.name)
        if events and events[0]["goes_on"]:
            return events[0]
    raise AssertionError(f"no line with {other.name} goes on")


def test_after_a_ping_it_tells_how_the_line_was_direct(alice: Person, echo: str) -> None:
    alice.pings_until_direct(echo)
    code, events = alice.events("why", echo)
    assert code == 0
    (why,) = events
    assert (why["peer"], why["app"], why["path"]) == (echo, "ping", "direct")
    assert why["cause"] is None
    assert not why["goes_on"]
    assert any("answered" in line for line in why["tried"])
    done = alice.run("why", echo.upper())
    assert done.returncode == 0
    text = done.stdout.decode()
    assert text.startswith(f"{echo}: the ping of ")
    assert "you called) is over; direct, " in text
    assert "\nTried:\n" in text


def test_the_line_that_a_listener_has_is_shown_in_another_terminal(
    alice: Person, bob: Person
) -> None:
    bob.listening("--echo")
    pinging = alice.start("ping", bob.name, "-i", "0.1", "--json")
    pinging.event("pong")
    for person, other, incoming in ((bob, alice, True), (alice, bob, False)):
        why = going_on(person, other)
        assert why["incoming"] is incoming
        assert why["path"] != "none"
    pinging.signal(signal.SIGINT)
    pinging.wait()
    _, events = alice.events("why", bob.name)
    assert not events[0]["goes_on"]


def test_it_tells_out_of_which_ports_random_ones_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KNOTHOLE_HOME", str(tmp_path))
    profile = Profile.create(tmp_path, "alice", ServerUrl("server.example", 443, pin=bytes(32)))
    profile.save()
    steps = (
        PlanChosen("birthday", "one end has a random port of 64512", 0.99),
        PoolKnown(False, 1024, 65535),
        PoolKnown(False, 40000, 40255, 31),
    )
    noted = tuple(Noted(0.1, step) for step in steps)
    history = CallHistory("bob", False, "ping", 1.0, True, noted)
    profile.last_lines.keep({bytes(16): (time.time(), history)})
    assert run(["why", "bob"]) == 0
    words = (
        "Ports taken for random ones: a random port of bob's out of 64512, then out of 256 after "
    )
    assert f"{words}31 probes.\n" in capsys.readouterr().out
    assert run(["why", "bob", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pools"] == [
        {"whose": "theirs", "first": 1024, "last": 65535, "after_probes": 0},
        {"whose": "theirs", "first": 40000, "last": 40255, "after_probes": 31},
    ]


def test_without_a_line_on_record_one_line_says_what_to_do(alice: Person, capsys) -> None:
    done = alice.run("why", "nobody-ever")
    assert done.returncode == 1
    assert b"knothole ping nobody-ever" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert run(["why"]) == 2

"""``knothole why``."""

from __future__ import annotations

import signal
import time
from typing import Any

from knothole.cli.app import run

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


def test_without_a_line_on_record_one_line_says_what_to_do(alice: Person, capsys) -> None:
    done = alice.run("why", "nobody-ever")
    assert done.returncode == 1
    assert b"knothole ping nobody-ever" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert run(["why"]) == 2

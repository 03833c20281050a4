"""--relay-only and policies for contacts."""

from __future__ import annotations

import json

from .conftest import Person


def test_a_ping_with_relay_only_is_relayed_and_says_why(alice: Person, echo: str) -> None:
    code, events = alice.events("ping", echo, "-c", "2", "-i", "0.5", "--relay-only")
    assert code == 0
    assert {event["path"] for event in events if event["event"] == "pong"} == {"relayed"}
    (relayed,) = [event for event in events if event["event"] == "relayed"]
    assert relayed["cause"] == "asked-here"
    _, (why,) = alice.events("why", echo)
    assert (why["path"], why["cause"]) == ("relayed", "asked-here")


def test_a_policy_makes_every_line_with_one_contact_relayed(alice: Person, echo: str) -> None:
    assert alice.events("contacts", "--policy", echo, "relay")[0] == 0
    policies = json.loads((alice.home / "policies.json").read_text())
    assert list(policies["servers"].values()) == [{echo: "relay"}]
    _, events = alice.events("ping", echo, "-c", "1")
    assert events[1]["path"] == "relayed"
    _, events = alice.events("contacts")
    assert {event["name"]: event["policy"] for event in events}[echo] == "relay"
    assert alice.events("contacts", "--policy", echo, "default")[0] == 0
    alice.pings_until_direct(echo)


def test_who_listens_with_relay_only_is_direct_with_friends_alone(
    alice: Person, bob: Person, carol: Person
) -> None:
    assert bob.events("contacts", "--policy", carol.name, "direct")[0] == 0
    bob.listening("--echo", "--relay-only")
    carol.pings_until_direct(bob.name)
    _, events = alice.events("ping", bob.name, "-c", "3", "-i", "0.5")
    assert {event["path"] for event in events if event["event"] == "pong"} == {"relayed"}


def test_a_policy_that_cannot_be_is_wrong_usage(alice: Person) -> None:
    assert alice.run("contacts", "--policy", "a b", "relay").returncode == 2
    assert alice.run("contacts", "--policy", "bob", "maybe").returncode == 2
    assert alice.run("contacts", "--policy", "bob").returncode == 2


def test_policies_that_cannot_be_read_end_a_command_with_what_to_do(
    alice: Person, echo: str
) -> None:
    (alice.home / "policies.json").write_text("{}x")
    done = alice.run("ping", echo, "-c", "1")
    assert done.returncode == 1
    assert b"policies.json cannot be read" in done.stderr

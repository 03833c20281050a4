"""``knothole ping``, and whom a listener takes."""

from __future__ import annotations

import signal
import subprocess

import pytest

from .conftest import KNOTHOLE, PATIENCE, Person


def test_each_probe_shows_round_trip_and_path(alice: Person, echo: str) -> None:
    code, events = alice.events("ping", echo, "-c", "3", "-i", "0.05")
    assert code == 0
    events = [event for event in events if event["event"] != "relayed"]  # it is, until it is not
    assert [event["event"] for event in events] == ["line", "pong", "pong", "pong", "summary"]
    assert [event["number"] for event in events[1:4]] == [1, 2, 3]
    assert all(event["rtt_ms"] > 0 for event in events[1:4])
    assert {event["path"] for event in events[1:4]} <= {"direct", "relayed"}
    assert (events[4]["sent"], events[4]["answered"]) == (3, 3)


def test_the_same_words_are_shown_to_both_when_a_key_is_new(alice: Person, bob: Person) -> None:
    listener = bob.listening("--echo")
    first = alice.run("ping", bob.name, "-c", "1").stderr.decode()
    listener.expect("compare these words")
    here, there = (
        next(line for line in text.splitlines() if "compare these words" in line).split(": ")[1]
        for text in (first, listener.stderr)
    )
    assert here == there
    assert len(here.split()) == 4
    assert "compare" not in alice.run("ping", bob.name, "-c", "1").stderr.decode()


@pytest.mark.parametrize("mode", ["--echo", "--pipe", None])
def test_whoever_listens_answers_pings_until_ctrl_c(
    mode: str | None, alice: Person, bob: Person
) -> None:
    listener = bob.listening(*filter(None, [mode]), "--once")
    for _ in range(2):  # pings do not count
        assert alice.run("ping", bob.name, "-c", "1").returncode == 0
    listener.signal(signal.SIGINT)
    assert listener.wait() == 130
    assert "Traceback" not in listener.stderr and "knothole:" not in listener.stderr


def test_who_asks_before_answering_shows_a_ping_no_address(alice: Person, bob: Person) -> None:
    listener = bob.listening("--answer", "--in", "null", "--out", "null", "--once")
    for _ in range(2):
        done = alice.run("ping", bob.name, "-c", "1")
        assert (done.returncode, done.stdout) == (1, b"")
        assert f"{bob.name} does not take the call" in done.stderr.decode()
    listener.signal(signal.SIGINT)
    assert listener.wait() == 130
    assert "Traceback" not in listener.stderr and "knothole:" not in listener.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody-of-this-name", "Nobody named nobody-of-this-name is registered"),
        ("a b", "cannot be anybody's name"),
        ("\x1b[31mred", r"\x1b[31mred"),
    ],
)
def test_a_wrong_name_is_said_in_one_line(name: str, words: str, alice: Person) -> None:
    done = alice.run("ping", name)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert words in done.stderr.decode()


def test_oneself_cannot_be_called(alice: Person) -> None:
    done = alice.run("ping", alice.name)
    assert done.returncode == 1
    assert f"{alice.name} is yourself" in done.stderr.decode()


@pytest.mark.parametrize("command", ["ping", "pipe", "chat", "call"])
def test_who_is_offline_is_said_to_be(command: str, alice: Person, bob: Person) -> None:
    sound = ["--in", "null", "--out", "null"] if command == "call" else []
    done = alice.run(command, bob.name, *sound)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == f"knothole: {bob.name} is offline."
    assert done.stdout == b""


def test_only_those_named_are_accepted(alice: Person, bob: Person, carol: Person) -> None:
    bob.listening("--echo", "--accept", f"dora,{carol.name.upper()}")
    refused = alice.run("ping", bob.name, "-c", "1")
    assert refused.returncode == 1
    assert f"{bob.name} does not take the call." in refused.stderr.decode()
    assert carol.run("ping", bob.name, "-c", "1").returncode == 0


def test_only_those_known_are_accepted_as_contacts(
    alice: Person, bob: Person, carol: Person
) -> None:
    bob.knows(carol)
    bob.listening("--echo", "--accept", "contacts")
    assert alice.run("ping", bob.name, "-c", "1").returncode == 1
    assert carol.run("ping", bob.name, "-c", "1").returncode == 0


def test_ctrl_c_sums_up(alice: Person, echo: str) -> None:
    pinging = alice.start("ping", echo, "-i", "0.05")
    pinging.expect("\n2: ")
    pinging.signal(signal.SIGINT)
    assert pinging.wait() == 0
    assert "answered; " in pinging.stdout.splitlines()[-1]
    assert "Traceback" not in pinging.stderr


def test_a_listener_that_ends_ends_the_ping(alice: Person, bob: Person) -> None:
    listener = bob.listening("--echo")
    pinging = alice.start("ping", bob.name, "-i", "0.05")
    pinging.expect("\n2: ")
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
    assert pinging.wait() == 1
    assert f"{bob.name} closed the line" in pinging.stderr.splitlines()[-1]


def test_sigterm_ends_what_is_going_on_without_a_word(alice: Person, echo: str) -> None:
    pinging = alice.start("ping", echo, "-i", "0.05")
    pinging.expect(" ms ")
    pinging.signal(signal.SIGTERM)
    assert pinging.wait() == 143
    assert "Traceback" not in pinging.stderr and "knothole:" not in pinging.stderr


def test_a_reader_who_has_seen_enough_is_no_error(alice: Person, echo: str) -> None:
    pinging = subprocess.Popen(
        [*KNOTHOLE, "ping", echo, "-i", "0.02"],
        env=alice.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert pinging.stdout is not None and pinging.stderr is not None
    with pinging.stdout, pinging.stderr:
        pinging.stdout.readline()
        pinging.stdout.close()
        assert pinging.wait(PATIENCE) == 141
        assert b"Traceback" not in pinging.stderr.read()


def test_closed_streams_are_no_error(alice: Person, echo: str) -> None:
    command = 'exec "$@" <&- >&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *KNOTHOLE, "ping", echo, "-c", "1"],
        env=alice.env,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0

"""``knothole call`` and ``knothole listen --answer``: what a caller and a callee live through."""

from __future__ import annotations

import math
import signal
import struct
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Person, serving

SILENT = ("--in", "null", "--out", "null")
IMPATIENT = (
    "import knothole.engine.rendezvous.calls as calls; calls.RING_SECONDS = 1.0;"
    "from knothole.cli import main; main()"
)
"""A server that lets a call ring for a second instead of 45."""


@pytest.fixture
def speech(tmp_path: Path) -> str:
    """A second and a half of a tone."""
    samples = (int(9000 * math.sin(index / 20)) for index in range(72_000))
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return str(tmp_path / "speech.wav")


def loudness(path: Path) -> tuple[float, int]:
    """How many seconds a recording has, and its largest sample."""
    with wave.open(str(path)) as file:
        count = file.getnframes()
        samples = struct.unpack(f"<{count}h", file.readframes(count))
        return count / file.getframerate(), max(samples, default=0)


def test_what_one_says_the_other_records(
    alice: Person, bob: Person, speech: str, tmp_path: Path
) -> None:
    out = tmp_path / "heard.wav"
    listener = bob.listening("--answer", "--once", "--in", "null", "--out", str(out), "--json")
    code, events = alice.events("call", bob.name, "--in", speech, "--out", "null")
    assert (code, listener.wait()) == (0, 0)
    names = [event["event"] for event in events]
    assert [name for name in names if name not in ("stats", "path")] == [
        *("calling", "ringing", "answered", "line", "over"),
    ]
    assert "stats" in names
    assert events[-1]["ending"] == "source ended"
    there = [event for event in listener.events() if event["event"] not in ("stats", "path")]
    assert [event["event"] for event in there] == ["ready", "ring", "line", "over"]
    assert there[1]["peer"] == alice.name
    assert there[3]["ending"] == "peer hung up"
    words = [next(e["words"] for e in each if e["event"] == "line") for each in (events, there)]
    assert words[0] == words[1]
    seconds, loudest = loudness(out)
    assert seconds > 1.0
    assert loudest > 1000


def test_people_see_how_it_goes_and_words_to_compare(
    alice: Person, bob: Person, speech: str
) -> None:
    listener = bob.listening("--answer", "--once", *SILENT)
    done = alice.run("call", bob.name, "--in", speech, "--out", "null")
    assert (done.returncode, listener.wait()) == (0, 0)
    told = done.stderr.decode()
    assert f"Calling {bob.name} ..." in told
    assert "It rings ..." in told
    assert f"{bob.name} has answered." in told
    result = done.stdout.decode()
    assert "rtt" in result and "loss in" in result  # a line of statistics
    assert "everything there was to say is said" in result.splitlines()[-1]
    assert f"{alice.name} is calling (its key is new: SHA256:" in listener.stdout
    words = told.partition(f"compare these words with {bob.name}: ")[2].splitlines()[0]
    assert f"compare these words with {alice.name}: {words}" in listener.stderr


def test_a_second_call_is_told_that_both_are_busy(
    alice: Person, bob: Person, carol: Person
) -> None:
    bob.listening("--answer", *SILENT)
    caller = alice.start("call", bob.name, *SILENT, "--json")
    caller.event("stats")
    for name in (bob.name, alice.name):
        busy = carol.run("call", name, *SILENT)
        assert busy.returncode == 1
        assert busy.stderr.decode().splitlines()[-1] == f"knothole: {name} is busy."
    assert carol.run("ping", bob.name, "-c", "1").returncode == 1
    assert caller.event("turned-away")["peer"] == carol.name
    caller.signal(signal.SIGINT)
    assert caller.wait() == 0  # Ctrl-C is how one hangs up
    assert caller.events()[-1]["ending"] == "hung up"


def test_a_listener_numbers_its_recordings(
    alice: Person, bob: Person, speech: str, tmp_path: Path
) -> None:
    out = tmp_path / "heard.wav"
    listener = bob.listening("--answer", "--in", "null", "--out", str(out), "--json")
    for number in (1, 2):
        assert alice.run("call", bob.name, "--in", speech, "--out", "null").returncode == 0
        listener.expect('"event": "over"', times=number)
    assert loudness(out)[1] > 1000
    assert loudness(tmp_path / "heard-2.wav")[1] > 1000


def test_the_other_side_that_dies_is_noticed(alice: Person, bob: Person) -> None:
    listener = bob.listening("--answer", *SILENT)
    caller = alice.start("call", bob.name, *SILENT, "--json")
    caller.event("stats")
    listener.signal(signal.SIGKILL)
    assert caller.wait() == 1
    assert caller.events()[-1]["ending"] in ("peer gone", "line lost")
    assert "gone" in caller.stderr


def test_a_listener_that_is_terminated_hangs_up(alice: Person, bob: Person, tmp_path: Path) -> None:
    out = tmp_path / "heard.wav"
    listener = bob.listening("--answer", "--in", "null", "--out", str(out))
    caller = alice.start("call", bob.name, "--in", "tone", "--out", "null", "--json")
    caller.event("stats")
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
    assert caller.wait() == 0
    assert caller.events()[-1]["ending"] == "peer hung up"
    assert loudness(out)[1] > 1000  # the recording is whole


def test_nobody_who_answers_is_said_after_a_while(
    register: Callable[[str, str], Person], impatient: str
) -> None:
    alice, bob = register("alice", impatient), register("bob", impatient)
    there = bob.at_terminal("listen", "--answer", *SILENT)
    there.expect("ready")
    done = alice.run("call", bob.name, *SILENT)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == f"knothole: {bob.name} does not answer."
    there.expect(f"The call of {alice.name} was not taken: they gave up.")


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "impatient", [sys.executable, "-c", IMPATIENT]) as url:
        yield url


def test_at_a_terminal_one_is_asked_and_may_decline(alice: Person, bob: Person) -> None:
    there = bob.at_terminal("listen", "--answer", *SILENT)
    there.expect("ready")
    caller = alice.start("call", bob.name, *SILENT)
    there.expect(f"Answer {alice.name}? [y/n]")
    caller.expect("It rings ...")
    there.say("x?n")
    assert caller.wait() == 1
    assert caller.stderr.splitlines()[-1] == f"knothole: {bob.name} does not take the call."
    there.expect("not taken: you declined.")


def test_at_a_terminal_one_may_mute_and_hang_up(alice: Person, bob: Person) -> None:
    there = bob.at_terminal("listen", "--answer", "--once", "--in", "tone", "--out", "null")
    there.expect("ready")
    here = alice.at_terminal("call", bob.name, "--in", "tone", "--out", "null")
    there.expect("[y/n]")
    there.say("y")
    here.expect("loss in ")
    here.say("m")
    here.expect("you muted")
    there.expect(f"{alice.name} muted")
    here.say("q")
    assert (here.wait(), there.wait()) == (0, 0)
    assert "The call is over: you hung up." in here.stdout
    assert "The other side hung up." in there.stdout
    assert here.left_as_found() and there.left_as_found()


def test_a_caller_who_gives_up_while_it_rings_stops_the_ringing(alice: Person, bob: Person) -> None:
    there = bob.at_terminal("listen", "--answer", *SILENT)
    there.expect("ready")
    caller = alice.start("call", bob.name, *SILENT)
    there.expect("[y/n]")
    caller.signal(signal.SIGINT)
    assert caller.wait() == 130
    there.expect("they gave up")
    there.say("y")  # too late, and not kept for the next call
    again = alice.start("call", bob.name, *SILENT)
    there.expect("[y/n]", times=2)
    again.expect("It rings ...")
    assert "has answered" not in again.stderr


def test_all_devices_of_a_person_ring_and_one_answers(alice: Person, bob: Person) -> None:
    first = bob.at_terminal("listen", "--answer", *SILENT)
    second = bob.at_terminal("listen", "--answer", "--once", *SILENT)
    for device in (first, second):
        device.expect("ready")
    caller = alice.start("call", bob.name, *SILENT, "--json")
    for device in (first, second):
        device.expect("[y/n]")
    second.say("y")
    caller.event("stats")
    first.expect("was not taken: answered elsewhere.")
    caller.signal(signal.SIGINT)
    assert (caller.wait(), second.wait()) == (0, 0)


@pytest.mark.parametrize("mode", ["--echo", None])
def test_who_takes_no_calls_does_not_take_this_one(
    mode: str | None, alice: Person, bob: Person
) -> None:
    bob.listening(*filter(None, [mode]))
    done = alice.run("call", bob.name, *SILENT)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == f"knothole: {bob.name} does not take the call."


@pytest.mark.parametrize(
    "arguments",
    [
        ("--in", "no-such-file.wav", "--out", "null"),
        ("--in", "null", "--out", "no/such/folder/x.wav"),
        ("--in", "null", "--out", "x.mp3"),
    ],
)
def test_sound_that_cannot_be_had_is_said_before_anything_rings(
    arguments: tuple[str, ...], alice: Person, bob: Person
) -> None:
    for command in (("call", bob.name), ("listen", "--answer")):
        done = alice.run(*command, *arguments)
        assert done.returncode == 1
        assert done.stdout == b""
        assert done.stderr.count(b"\n") == 1

"""``knothole pipe``: like netcat, and nothing is lost."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
from pathlib import Path

import pytest

from .conftest import KNOTHOLE, PATIENCE, Person

SIZE = 20_000_000


def test_large_files_go_both_ways_at_once_and_arrive_whole(
    alice: Person, bob: Person, tmp_path: Path
) -> None:
    sent = {}
    for name, seed in (("there", 1), ("back", 2)):
        (tmp_path / name).write_bytes(random.Random(seed).randbytes(SIZE))
        sent[name] = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    with (tmp_path / "back").open("rb") as back, (tmp_path / "bob-got").open("wb") as got:
        listener = bob.start("listen", "--pipe", "--once", stdin=back.fileno(), stdout=got.fileno())
        listener.expect("ready")
        done = alice.run("pipe", bob.name, stdin=(tmp_path / "there").read_bytes())
        assert (done.returncode, listener.wait()) == (0, 0)
    assert hashlib.sha256(done.stdout).hexdigest() == sent["back"]
    assert hashlib.sha256((tmp_path / "bob-got").read_bytes()).hexdigest() == sent["there"]


def test_the_caller_may_end_first_and_still_hears_the_answer(alice: Person, bob: Person) -> None:
    listener = bob.listening("--pipe")
    caller = alice.start("pipe", bob.name)
    caller.say("question")
    caller.end_input()
    listener.expect("question")
    listener.say("answer")
    caller.expect("answer")
    listener.say(", and more")
    listener.end_input()
    assert (caller.wait(), listener.wait()) == (0, 0), listener.stderr
    assert (caller.stdout, listener.stdout) == ("answer, and more", "question")


def test_the_listener_may_end_first_and_still_hears_the_question(
    alice: Person, bob: Person
) -> None:
    listener = bob.listening("--pipe")
    listener.end_input()
    caller = alice.start("pipe", bob.name)
    for number in range(3):
        caller.say(f"{number}\n")
        listener.expect(f"{number}\n")
    caller.end_input()
    assert (caller.wait(), listener.wait()) == (0, 0), listener.stderr
    assert listener.stdout == "0\n1\n2\n"


def test_nothing_but_data_goes_to_stdout(alice: Person, bob: Person, nothing: int) -> None:
    listener = bob.listening("--pipe", "--json", stdin=nothing)
    done = alice.run("pipe", bob.name, "--json", stdin=b"data")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (listener.wait(), listener.stdout) == (0, "data")
    for text in (done.stderr.decode(), listener.stderr):
        assert '{"event": "line"' in text
        assert '{"event": "over"' in text


def test_an_empty_pipe_is_a_pipe(alice: Person, bob: Person, nothing: int) -> None:
    listener = bob.listening("--pipe", stdin=nothing)
    done = alice.run("pipe", bob.name)
    assert (done.returncode, done.stdout) == (0, b"")
    assert (listener.wait(), listener.stdout) == (0, "")


def test_a_second_pipe_is_told_that_we_are_busy(alice: Person, bob: Person, carol: Person) -> None:
    listener = bob.listening("--pipe")
    caller = alice.start("pipe", bob.name)
    caller.say("mine")
    listener.expect("mine")
    refused = carol.run("pipe", bob.name, stdin=b"not yours")
    assert refused.returncode == 1
    assert refused.stderr.decode() == f"knothole: {bob.name} is busy.\n"
    caller.end_input()
    listener.end_input()
    assert (caller.wait(), listener.wait(), listener.stdout) == (0, 0, "mine")


def test_who_takes_no_pipe_says_what_would(alice: Person, bob: Person) -> None:
    bob.listening()
    refused = alice.run("pipe", bob.name, stdin=b"data")
    assert refused.returncode == 1
    assert "knothole listen --pipe" in refused.stderr.decode()


def test_another_device_of_the_same_person_takes_what_the_first_does_not(
    alice: Person, bob: Person, nothing: int
) -> None:
    chatting = bob.listening()
    piping = bob.listening("--pipe", stdin=nothing)
    assert alice.run("pipe", bob.name, stdin=b"data").returncode == 0
    assert (piping.wait(), piping.stdout) == (0, "data")
    assert alice.run("chat", bob.name, stdin=b"hello\n").returncode == 0
    chatting.expect(f"{alice.name}: hello")


def test_an_echo_gives_back_exactly_what_was_sent(alice: Person, echo: str) -> None:
    data = random.Random(3).randbytes(300_000)
    done = alice.run("pipe", echo, stdin=data)
    assert (done.returncode, done.stdout == data) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_that_is_cut_off_is_a_failure_on_both_sides(
    number: signal.Signals, alice: Person, bob: Person
) -> None:
    listener = bob.listening("--pipe")
    caller = alice.start("pipe", bob.name)
    caller.say("half of it")
    listener.expect("half of it")
    caller.signal(number)
    assert caller.wait() == 128 + number
    assert listener.wait() == 1
    assert listener.stderr.splitlines()[-1] == f"knothole: {alice.name} closed the line"
    assert "Traceback" not in caller.stderr + listener.stderr


def test_when_nobody_reads_the_output_both_sides_end(
    alice: Person, bob: Person, tmp_path: Path
) -> None:
    (tmp_path / "endless").write_bytes(bytes(SIZE))
    with (tmp_path / "endless").open("rb") as endless:
        listener = bob.listening("--pipe", stdin=endless.fileno())
    caller = subprocess.Popen(
        [*KNOTHOLE, "pipe", bob.name],
        env=alice.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert caller.stdin and caller.stdout and caller.stderr
    with caller.stdin, caller.stdout, caller.stderr:
        assert caller.stdout.read(10) == bytes(10)
        caller.stdout.close()
        assert caller.wait(PATIENCE) == 141
        assert b"Traceback" not in caller.stderr.read()
    assert listener.wait() == 1
    assert "its output is closed" in listener.stderr.splitlines()[-1]

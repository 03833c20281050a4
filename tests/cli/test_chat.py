"""``knothole chat``, by pipes and at terminals."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest

from knothole.peer.errors import CallDeclined
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile

from .conftest import PATIENCE, Person, TerminalProgram

OURS = re.compile(r"\r\x1b\[K|\x1b\[\d+D")
"""What our own prompt sends to the terminal."""


def seen(program: TerminalProgram) -> str:
    """What a terminal has been told, without what the prompt says to it."""
    return OURS.sub("", program.stdout)


def test_what_is_said_arrives_line_by_line_both_ways(alice: Person, bob: Person) -> None:
    listener = bob.listening()
    caller = alice.start("chat", bob.name)
    caller.say("hello\n\ngrüße 👍\n")
    listener.expect(f"{alice.name}: hello\n{alice.name}: \n{alice.name}: grüße 👍\n")
    listener.say("good day\n")
    caller.expect(f"{bob.name}: good day\n")
    caller.say("the last without its end")
    caller.end_input()
    assert caller.wait() == 0
    listener.expect(f"{alice.name}: the last without its end\n")
    listener.expect(f"{alice.name} has left.")
    assert caller.stdout == f"{bob.name}: good day\n"


def test_a_listener_takes_one_chat_after_the_other(
    alice: Person, bob: Person, carol: Person
) -> None:
    listener = bob.listening("--json")
    caller = alice.start("chat", bob.name)
    caller.say("hello\n")
    listener.expect('"text": "hello"')
    refused = carol.run("chat", bob.name, stdin=b"me too\n")
    assert (refused.returncode, refused.stderr.decode()) == (1, f"knothole: {bob.name} is busy.\n")
    caller.end_input()
    assert caller.wait() == 0
    listener.expect('"event": "over"')
    assert carol.run("chat", bob.name, stdin=b"me too\n").returncode == 0
    listener.expect('"event": "over"', times=2)
    said = [event["text"] for event in listener.events() if event["event"] == "message"]
    assert said == ["hello", "me too"]
    events = [event["event"] for event in listener.events()]
    assert events == [
        *("ready", "line", "message", "turned-away", "left", "over"),
        *("line", "message", "left", "over"),
    ]


def test_once_is_one_chat(alice: Person, bob: Person) -> None:
    listener = bob.listening("--once")
    code, events = alice.events("chat", bob.name)
    assert code == 0
    assert [event["event"] for event in events] == ["line", "left"]
    assert events[1]["who"] == "you"
    assert listener.wait() == 0, listener.stderr


def test_the_listener_may_leave_first(alice: Person, bob: Person) -> None:
    listener = bob.listening("--once")
    caller = alice.start("chat", bob.name, "--json")
    caller.say("hello\n")
    listener.expect("hello")
    listener.signal(signal.SIGINT)
    assert listener.wait() == 130
    assert caller.wait() == 1
    assert f"{bob.name} closed the line" in caller.stderr


def test_a_long_message_arrives_whole(alice: Person, bob: Person) -> None:
    listener = bob.listening("--once")
    text = "äöü" * 5000
    assert alice.run("chat", bob.name, stdin=f"{text}\n".encode()).returncode == 0
    assert listener.wait() == 0
    heard = [line.partition(": ")[2] for line in listener.stdout.splitlines()[1:]]
    assert "".join(heard) == text


def test_two_people_at_terminals_talk(alice: Person, bob: Person) -> None:
    there = bob.at_terminal("listen")
    there.expect("ready")
    here = alice.at_terminal("chat", bob.name)
    here.expect("Ctrl-D leaves")
    there.expect("Ctrl-D leaves")
    here.say("hallo\x7fo bob\r")
    there.expect(f"{alice.name}: hallo bob\r\n")
    there.say("half a li")
    there.expect("> half a li")
    here.say("second\r")
    there.expect(f"{alice.name}: second\r\n")
    there.expect("> half a li", times=2)  # drawn again below what has come
    there.say("ne\r")
    here.expect(f"{bob.name}: half a line\r\n")
    here.say("\x04")
    assert here.wait() == 0
    assert here.left_as_found()
    there.expect(f"{alice.name} has left.")
    there.signal(signal.SIGINT)
    assert there.wait() == 130
    assert there.left_as_found()


def test_what_a_terminal_would_obey_is_shown_and_not_passed_on(alice: Person, bob: Person) -> None:
    there = bob.at_terminal("listen", "--once")
    there.expect("ready")
    evil = "\x1b[2J\x1b]0;title\x07\x9b31mred\x1bP\u202etxet\u2066\x08\x7f\rbob: pay\ttab\x00"
    assert alice.run("chat", bob.name, stdin=f"{evil}\nend\n".encode()).returncode == 0
    there.expect(f"{alice.name}: end\r\n")
    assert there.wait() == 0
    shown = seen(there)
    assert (
        r"\x1b[2J\x1b]0;title\x07\x9b31mred\x1bP\u202etxet\u2066\x08\x7f\rbob: pay\ttab\x00"
        in shown
    )
    assert not re.search(r"[^\S \r\n]|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\u2066]", shown)
    assert f"\r\n{bob.name}: pay" not in shown.replace("\\r", "")


async def line_and_its_end(alice: Person, name: str, *, app: str, reason: str) -> None:
    async with Peer(Profile.load(alice.home), callable=False) as peer:
        line = await peer.connect(name, timeout=PATIENCE, app=app)
        await line.secured()
        line.close(reason)


def test_the_reason_of_an_end_from_elsewhere_is_shown_safely_too(
    alice: Person, bob: Person
) -> None:
    listener = bob.listening("--echo")
    asyncio.run(line_and_its_end(alice, bob.name, app="", reason="\x1b[2J\x07\rbob: pay"))
    listener.expect(rf"{alice.name} closed the line: \x1b[2J\x07\rbob: pay" + "\n")
    assert not {"\x1b", "\x07", "\r"} & set(listener.stderr)


def test_what_somebody_elsewhere_wants_is_shown_safely_too(alice: Person, bob: Person) -> None:
    listener = bob.listening()
    with pytest.raises(CallDeclined):
        asyncio.run(line_and_its_end(alice, bob.name, app="\u2066\u202eyap", reason=""))
    listener.expect(
        rf"{alice.name} was turned away (\u2066\u202eyap): it is not taken here." + "\n"
    )
    assert not {"\u2066", "\u202e"} & set(listener.stderr)


def test_ctrl_c_ends_a_chat_and_gives_the_terminal_back(alice: Person, bob: Person) -> None:
    listener = bob.listening()
    here = alice.at_terminal("chat", bob.name)
    here.expect("Ctrl-D leaves")
    here.say("not sent\x03")
    assert here.wait() == 130
    assert here.left_as_found()
    assert "Traceback" not in here.stdout
    listener.expect("is over: ")
    assert "not sent" not in listener.stdout


def test_a_long_line_scrolls_within_one_row_of_the_terminal(alice: Person, bob: Person) -> None:
    listener = bob.listening("--once")
    here = alice.at_terminal("chat", bob.name, columns=40)
    here.expect("Ctrl-D leaves")
    text = " ".join(map(str, range(40)))
    here.say(text)
    here.expect(" 39")
    after_prompt = here.stdout.partition("Ctrl-D leaves.")[2]
    assert all(len(row) < 40 for row in re.split(r"\r\x1b\[K", after_prompt))
    here.say("\r")
    listener.expect(f"{alice.name}: {text}\n")
    here.say("\x04")
    assert (here.wait(), listener.wait()) == (0, 0)

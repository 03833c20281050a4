"""``knothole diy`` on loopback: what is shown, as lines and as objects, and how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Person, Program, checked, free_port

HELLO = b"hello\n"


@pytest.fixture
def somebody(tmp_path: Path) -> Iterator[Person]:
    """Somebody who is registered nowhere: nothing here goes online."""
    with contextlib.ExitStack() as opened:
        yield Person("somebody", tmp_path, opened)


@pytest.fixture
def far() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(30.0)
        yield udp


def events_of(command: str, lines: str | bytes) -> list[dict[str, Any]]:
    return [checked(command, json.loads(line)) for line in lines.splitlines()]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def listening(somebody: Person, *arguments: str) -> tuple[Program, int]:
    port = free_port()
    program = somebody.start("diy", "listen", str(port), "--host", "127.0.0.1", *arguments)
    program.expect(str(port))
    return program, port


def test_a_listener_shows_who_sent_what_and_ends_well_by_ctrl_c(
    somebody: Person, far: socket.socket
) -> None:
    program, port = listening(somebody)
    far.sendto(HELLO, ("127.0.0.1", port))
    program.expect("hello")
    program.signal(signal.SIGINT)
    assert program.wait() == 0
    assert program.stdout == f"127.0.0.1:{far.getsockname()[1]}: hello\n"


def test_what_is_received_is_shown_and_not_obeyed(somebody: Person, far: socket.socket) -> None:
    program, port = listening(somebody, "--once")
    far.sendto(b"\x1b[2J\xff two\nlines\n", ("127.0.0.1", port))
    assert program.wait() == 0
    assert program.stdout.endswith(": \\x1b[2J\\xff two\\nlines\n")
    assert program.stdout.count("\n") == 1


def test_for_programs_it_is_an_object_with_every_byte(somebody: Person, far: socket.socket) -> None:
    program, port = listening(somebody, "--once", "--json")
    far.sendto(b"\xff", ("127.0.0.1", port))
    assert program.wait() == 0
    first, second = events_of("diy listen", program.stdout)
    assert first == {"event": "listening", "local": f"127.0.0.1:{port}"}
    assert second["hex"] == "ff" and second["size"] == 1 and second["text"] == "\\xff"


def test_a_port_that_is_taken_is_a_failure_with_a_way_out(
    somebody: Person, far: socket.socket
) -> None:
    taken = str(far.getsockname()[1])
    done = somebody.run("diy", "listen", taken, "--host", "127.0.0.1")
    assert done.returncode == 1
    assert b"Another program has port" in done.stderr and b"diy punch" in done.stderr


def test_sending_comes_from_the_port_asked_for_and_shows_the_answer(
    somebody: Person, far: socket.socket
) -> None:
    port, source = far.getsockname()[1], free_port()
    sending = somebody.start("diy", "send", "127.0.0.1", str(port), "--from", str(source))
    sending.say("hello\n")
    assert far.recvfrom(100) == (HELLO, ("127.0.0.1", source))
    far.sendto(b"and to you\n", ("127.0.0.1", source))
    sending.expect("and to you")
    sending.end_input()
    assert sending.wait() == 0
    assert sending.stdout == f"127.0.0.1:{port}: and to you\n"


def test_port_unreachable_is_shown_and_no_failure(somebody: Person) -> None:
    where = ("127.0.0.1", str(free_port()))
    done = somebody.run("diy", "send", *where, stdin=HELLO)
    assert done.returncode == 0
    assert done.stdout == (
        b"127.0.0.1 says by ICMP: port unreachable. To a hole it is of no consequence.\n"
    )
    done = somebody.run("diy", "send", *where, "--json", stdin=HELLO)
    assert names(events_of("diy send", done.stdout)) == ["sent", "icmp"]


@pytest.mark.parametrize("name", ["no such name", "a..b", "a" * 64])
def test_a_name_that_is_not_known_is_a_failure(somebody: Person, name: str) -> None:
    done = somebody.run("diy", "send", name, "53")
    assert done.returncode == 1
    assert f"'{name}' is not known here".encode() in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_punch_goes_out_from_a_port_that_a_listener_has(
    somebody: Person, far: socket.socket
) -> None:
    listener, port = listening(somebody, "--json")
    target = ("127.0.0.1", str(far.getsockname()[1]))
    done = somebody.run("diy", "punch", *target, "--from", str(port), "--wait", "0", "--json")
    assert done.returncode == 0
    assert names(events_of("diy punch", done.stdout)) == ["sent"]
    assert far.recvfrom(100) == (b"", ("127.0.0.1", port))
    far.sendto(HELLO, ("127.0.0.1", port))
    listener.expect("hello")


def test_by_tcp_a_connection_carries_it(somebody: Person) -> None:
    listener, port = listening(somebody, "--tcp", "--once", "--json")
    done = somebody.run("diy", "send", "127.0.0.1", str(port), "--tcp", "--json", stdin=HELLO)
    assert done.returncode == 0
    assert listener.wait() == 0
    heard = events_of("diy listen", listener.stdout)
    assert names(heard) == ["listening", "connected", "received", "closed"]
    assert heard[2]["text"] == "hello\n"
    assert names(events_of("diy send", done.stdout))[:2] == ["connected", "sent"]


def test_by_tcp_nobody_there_is_a_failure(somebody: Person) -> None:
    done = somebody.run("diy", "send", "127.0.0.1", str(free_port()), "--tcp", stdin=HELLO)
    assert done.returncode == 1
    assert b"nobody listens there" in done.stderr

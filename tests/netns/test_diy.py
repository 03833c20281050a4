"""The article's experiment behind a real NAT: ours and Debian's programs, in each other's roles."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from knothole.lab.netns.packet import Packet
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import knothole

pytestmark = pytest.mark.netns

REMOTE: Final = "9.9.9.9"
PORT: Final = "14141"
PATIENCE: Final = 60.0
HELLO: Final = b"hello\n"
NETCATS: Final = ("nc.openbsd", "nc.traditional")
WITHOUT_RAW: Final = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--")


def listener(program: str) -> list[str]:
    """local/1# nc -u -l -p 14141"""
    return (
        knothole("diy", "listen", PORT)
        if program == "knothole"
        else [program, "-u", "-l", "-p", PORT]
    )


def sender(program: str, target: str) -> list[str]:
    """remote# echo "hello" | nc -p 53 -u local-fw 14141"""
    if program == "knothole":
        return knothole("diy", "send", target, PORT, "--from", "53", "--wait", "0.5")
    ends = ["-q", "1"] if program == "nc.openbsd" else ["-w", "1"]
    return [program, "-p", "53", "-u", *ends, target, PORT]


def puncher(program: str) -> list[str]:
    """local/2# hping2 -c 1 -2 -s 14141 -p 53 remote"""
    if program == "knothole":
        return knothole("diy", "punch", REMOTE, "53", "--from", PORT)
    return [program, "-c", "1", "-2", "-n", "-s", PORT, "-p", "53", REMOTE]


@pytest.fixture
def stage(lab: Lab) -> Lab:
    build(lab, "linux")
    return lab


def build(lab: Lab, nat: str) -> None:
    lab.add_server("remote", addresses=[REMOTE])
    lab.add_client("local", nat=nat)
    lab.wait_ready()


class Console:
    """A program that runs on, and what it has printed so far."""

    def __init__(self, lab: Lab, host: str, argv: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = lab.popen(
                host, argv, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> bytes:
        return self._log.read_bytes()

    def expect(self, text: bytes) -> None:
        wait_until(lambda: text in self.output, lambda: f"no {text!r} in {self.output!r}")


Consoles: TypeAlias = Callable[[str, list[str]], Console]


@pytest.fixture
def console(lab: Lab, tmp_path: Path) -> Iterator[Consoles]:
    numbers = itertools.count()
    open_now: list[Console] = []

    def start(host: str, argv: list[str]) -> Console:
        for needed in argv[:1]:
            if shutil.which(needed) is None:
                pytest.skip(f"{needed} is not installed")
        open_now.append(Console(lab, host, argv, tmp_path / f"console-{next(numbers)}"))
        return open_now[-1]

    yield start
    for each in open_now:
        each.process.kill()
        each.process.wait()
        assert each.process.stdin is not None
        each.process.stdin.close()


def wait_until(holds: Callable[[], bool], why: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, why()
        time.sleep(0.01)


def wait_bound(lab: Lab, host: str, port: str, table: str = "udp") -> None:
    """Until a program there has the port."""

    def bound() -> bool:
        with lab.inside(host):
            rows = Path(f"/proc/thread-self/net/{table}").read_text()
        return f":{int(port):04X} 00000000:0000" in rows

    wait_until(bound, lambda: f"nobody listens on {port}")


def run_to_end(lab: Lab, host: str, argv: list[str]) -> str:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    done = lab.run(host, argv, input=HELLO, capture_output=True, timeout=PATIENCE)
    return (done.stdout + done.stderr).decode()


@pytest.mark.interop
@pytest.mark.parametrize(
    ("listens", "sends", "punches"),
    [
        ("nc.openbsd", "nc.openbsd", "hping3"),
        ("knothole", "nc.openbsd", "hping3"),
        ("nc.traditional", "knothole", "hping3"),
        ("nc.openbsd", "nc.traditional", "knothole"),
        ("nc.traditional", "nc.openbsd", "knothole"),
        ("knothole", "nc.traditional", "knothole"),
        ("knothole", "knothole", "knothole"),
    ],
)
def test_the_second_hello_comes_through_the_hole(
    stage: Lab,
    console: Consoles,
    listens: str,
    sends: str,
    punches: str,
) -> None:
    target = stage.public_address("local")
    waiting = console("local", listener(listens))
    wait_bound(stage, "local", PORT)
    run_to_end(stage, "remote", sender(sends, target))
    assert stage.discarded("local").packets == 1
    assert b"hello" not in waiting.output
    punched = run_to_end(stage, "local", puncher(punches))
    assert re.search(r"port unreachable", punched, re.IGNORECASE), "remote behaves itself"
    assert stage.discarded("local").packets == 1
    run_to_end(stage, "remote", sender(sends, target))
    waiting.expect(b"hello")
    assert stage.discarded("local").packets == 1


@pytest.mark.interop
@pytest.mark.parametrize("listens", ["knothole", "nc.traditional"])
def test_without_root_a_port_that_is_shared_is_punched_from_all_the_same(
    stage: Lab, console: Consoles, listens: str
) -> None:
    waiting = console("local", listener(listens))
    wait_bound(stage, "local", PORT)
    punched = run_to_end(stage, "local", [*WITHOUT_RAW, *puncher("knothole")])
    assert "port unreachable" in punched
    run_to_end(stage, "remote", sender("knothole", stage.public_address("local")))
    waiting.expect(b"hello")


@pytest.mark.interop
def test_without_root_a_port_that_is_not_shared_is_a_clear_error(
    stage: Lab, console: Consoles
) -> None:
    holder = "import socket; s = socket.socket(2, 2); s.bind(('', 14141)); input()"
    console("local", [sys.executable, "-c", holder])
    wait_bound(stage, "local", PORT)
    punched = run_to_end(stage, "local", [*WITHOUT_RAW, *puncher("knothole")])
    assert punched == (
        "knothole: Another program has UDP port 14141 and does not share it. "
        "Run this as root, or listen with `knothole diy listen`.\n"
    )


def test_a_punch_with_few_hops_makes_the_hole_and_reaches_nobody(
    stage: Lab, console: Consoles
) -> None:
    waiting = console("local", listener("knothole"))
    wait_bound(stage, "local", PORT)
    punched = run_to_end(stage, "local", [*puncher("knothole"), "--hops", "2"])
    assert "time to live exceeded" in punched
    run_to_end(stage, "remote", sender("knothole", stage.public_address("local")))
    waiting.expect(b"hello")


@pytest.mark.parametrize("nat", ["firewall", "linux"])
def test_a_syn_made_by_hand_lets_a_foreign_syn_in(lab: Lab, console: Consoles, nat: str) -> None:
    """Whether a connection comes of it is up to the listener's sequence number: by chance it may
    fit the SYN that made the hole, and Linux translates its answer only then.
    """
    build(lab, nat)
    console("local", knothole("diy", "listen", PORT, "--tcp"))
    wait_bound(lab, "local", PORT, "tcp")
    target = lab.public_address("local")
    send = knothole("diy", "send", target, PORT, "--from", "53", "--tcp", "--wait", "1")
    punch = knothole("diy", "punch", REMOTE, "53", "--from", PORT, "--tcp", "--hops", "2")
    with lab.capture("local") as before:
        assert "No connection" in run_to_end(lab, "remote", send)
    assert not syns_that_came_in(before.packets())
    assert "time to live exceeded" in run_to_end(lab, "local", punch)
    with lab.capture("local") as after:
        run_to_end(lab, "remote", send)
    assert syns_that_came_in(after.packets())


def syns_that_came_in(packets: list[Packet]) -> list[Packet]:
    return [
        packet
        for packet in packets
        if packet.opens_tcp
        and packet.source.host == REMOTE
        and (packet.seen.interface, packet.seen.outgoing) == ("lan", True)
    ]


def test_two_ends_that_send_by_tcp_at_once_are_connected(stage: Lab, console: Consoles) -> None:
    target = stage.public_address("local")
    far = console(
        "remote", knothole("diy", "send", target, PORT, "--from", "53", "--tcp", "--wait", "60")
    )
    wait_until(lambda: stage.discarded("local").packets > 0, lambda: "no SYN came")
    near = console(
        "local", knothole("diy", "send", REMOTE, "53", "--from", PORT, "--tcp", "--wait", "60")
    )
    far.expect(b"is connected")
    near.expect(b"is connected")
    assert near.process.stdin is not None
    os.write(near.process.stdin.fileno(), HELLO)
    far.expect(b"hello")


@pytest.mark.interop
@pytest.mark.parametrize("netcat", NETCATS)
def test_by_tcp_netcat_and_ours_talk_both_ways_round(
    stage: Lab, console: Consoles, netcat: str
) -> None:
    ours = console("remote", knothole("diy", "listen", "7777", "--tcp"))
    wait_bound(stage, "remote", "7777", "tcp")
    run_to_end(stage, "local", [netcat, "-q", "0", REMOTE, "7777"])
    ours.expect(b"hello")
    theirs = console("remote", [netcat, "-l", "-p", "7778"])
    wait_bound(stage, "remote", "7778", "tcp")
    said = run_to_end(stage, "local", knothole("diy", "send", REMOTE, "7778", "--tcp"))
    assert "is connected" in said
    theirs.expect(b"hello")

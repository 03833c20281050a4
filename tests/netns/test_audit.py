"""``knothole audit`` inside a network of the lab: it tells the truth, and its rules close ways."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from knothole.io.audit.finding import Group
from knothole.io.audit.rules import rules
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import Program, knothole

pytestmark = pytest.mark.netns

REMOTE: Final = "9.9.9.9"
ASSISTANT_PORT: Final = 443  # a port that no rule closes: it stands for the web's
PATIENCE: Final = 90.0
WAYS: Final = {
    "UDP port 53 out (DNS)": True,
    "UDP port 123 out (NTP)": True,
    "UDP port 443 out (HTTP/3)": True,
    "UDP port 500 out (IPsec)": True,
    "UDP port 3478 out (STUN)": True,
    "UDP port 45678 out (a high port)": True,
    "UDP in, unasked": False,
    "UDP hole punching": True,
    "TURN over UDP, port 3478": True,
    "TURN over TCP, port 3478": True,
    "TURN over TLS, port 3478": True,
    "TURN over TLS, port 443": True,
    "HTTP CONNECT by a proxy": None,
    "TCP simultaneous open": True,
    "TCP, a foreign SYN after one of ours": True,
    "TCP, a SYN-ACK with a wrong number": True,
}
"""What an ordinary Linux router lets through."""

BY_PUNCHING: Final = {
    "UDP port 3478 out (STUN)",
    "UDP port 45678 out (a high port)",
    "UDP hole punching",
    "TURN over UDP, port 3478",
}
BY_TCP_PUNCHING: Final = {
    "TURN over TCP, port 3478",
    "TURN over TLS, port 3478",
    "TCP simultaneous open",
    "TCP, a foreign SYN after one of ours",
    "TCP, a SYN-ACK with a wrong number",
}


class Network:
    """A computer behind a router, a server and an assistant outside."""

    def __init__(self, lab: Lab, nat: str, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        server = lab.add_server()
        lab.add_server("remote", addresses=[REMOTE])
        lab.add_client("local", nat=nat)
        lab.wait_ready()
        self._programs: list[Program] = []
        serve = ["serve", "--host", server.address, "--also-listen", "443"]
        data = ["--data", str(folder / "server"), "--json"]
        self.url = self._start("server", [*serve, *data], "ready")["url"]
        self._start("remote", ["diy", "assist", str(ASSISTANT_PORT), "--json"], "listening")

    def audit(self, *more: str) -> dict[str, bool | None]:
        """Every way by its name: open, closed or not known. The exit code is 1 if none is open."""
        assistant = ["--assistant", f"{REMOTE}:{ASSISTANT_PORT}"]
        done = self.lab.run(
            "local",
            knothole("audit", "--server", self.url, *assistant, "--json", *more),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        found = {event["name"]: event["open"] for event in events if event["event"] == "way"}
        assert done.returncode == (0 if any(found.values()) else 1), done.stderr
        return found

    def load(self, file: Path) -> None:
        """The router's administrator tries the rules, and loads them."""
        for words in (["-c", "-f", str(file)], ["-f", str(file)]):
            done = self.lab.run("local-nat", ["nft", *words], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

    def browse(self) -> bytes:
        """A page of the web, over TCP from port 80 of the internet."""
        with self.lab.inside("remote"):
            web = socket.create_server((REMOTE, 80))
        with self.lab.inside("local"):
            browser = socket.create_connection((REMOTE, 80), 40.0)
        with web, browser:
            served, _ = web.accept()
            with served:
                browser.sendall(b"GET /")
                served.sendall(b"200 " + served.recv(100))
            browser.settimeout(40.0)
            return browser.recv(100)

    def close(self) -> None:
        for program in self._programs:
            program.close(ends_with_input=False)

    def _start(self, host: str, words: list[str], event: str) -> dict[str, str]:
        env = {**os.environ, "KNOTHOLE_HOME": str(self.folder / host)}
        self._programs.append(Program(self.lab, host, knothole(*words), env))
        return self._programs[-1].expect(event, timeout=PATIENCE)


@pytest.fixture
def network(lab: Lab, tmp_path: Path) -> Iterator[Network]:
    with contextlib.closing(Network(lab, "linux", tmp_path)) as built:
        yield built


def test_it_tells_what_an_ordinary_router_lets_through(network: Network) -> None:
    assert network.audit() == WAYS


def test_on_the_open_internet_everything_comes_in(lab: Lab, tmp_path: Path) -> None:
    with contextlib.closing(Network(lab, "none", tmp_path)) as network:
        found = network.audit()
    assert found["UDP in, unasked"] is True
    assert found["TCP, a foreign SYN after one of ours"] is True


def test_where_the_port_varies_holes_cannot_be_aimed_at(lab: Lab, tmp_path: Path) -> None:
    """In sequence, that is: a random port is the same one again by chance."""
    with contextlib.closing(Network(lab, "sequential", tmp_path)) as network:
        found = network.audit()
    assert found["UDP port 3478 out (STUN)"] is True
    assert found["UDP hole punching"] is False


@pytest.mark.parametrize(
    ("close", "closed"),
    [
        ("udp", {name for name in WAYS if "UDP" in name}),
        ("punching", BY_PUNCHING),
        ("tcp-punching", BY_TCP_PUNCHING),
        ("relay", {name for name in WAYS if "UDP" in name or "TURN" in name}),
        ("udp,tcp-punching,relay,unasked", {*WAYS}),
    ],
)
def test_the_rules_close_what_was_named_and_the_web_goes_on(
    network: Network, close: str, closed: set[str]
) -> None:
    """With the relay's address closed nothing more can be learned from that server."""
    file = network.folder / "close.nft"
    assert network.audit("--close", close, "--rules", str(file)) == WAYS
    network.load(file)
    still_open = {name for name, is_open in network.audit().items() if is_open}
    assert still_open == {name for name, is_open in WAYS.items() if is_open} - closed
    assert network.browse() == b"200 GET /"


def test_with_udp_closed_the_articles_experiment_comes_to_nothing(network: Network) -> None:
    file = network.folder / "close.nft"
    file.write_text(rules([Group.UDP], outside="wan", servers=[]))
    network.load(file)
    lab = network.lab
    with lab.inside("local"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
        local.bind(("", 14141))
        local.settimeout(0.3)
        with lab.inside("remote"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
            remote.bind(("", 53))
            local.sendto(b"", (REMOTE, 53))
            remote.sendto(b"hello", (lab.public_address("local"), 14141))
        with pytest.raises(TimeoutError):
            local.recvfrom(100)


def test_a_server_inside_still_answers_when_udp_is_closed(lab: Lab, tmp_path: Path) -> None:
    """Without a NAT: packets in answer to somebody outside are not what is closed."""
    lab.add_server("remote", addresses=[REMOTE])
    inside = lab.add_client("local", nat="none")
    lab.wait_ready()
    file = tmp_path / "close.nft"
    file.write_text(rules([Group.UDP, Group.PUNCHING], outside="wan", servers=[]))
    lab.run("local-nat", ["nft", "-f", str(file)], check=True)
    with lab.inside("local"):
        local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with lab.inside("remote"):
        remote = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with local, remote:
        local.bind((inside.address, 5353))
        local.settimeout(40.0)
        remote.settimeout(40.0)
        remote.sendto(b"question", (inside.address, 5353))
        question, asker = local.recvfrom(100)
        local.sendto(b"answer to " + question, asker)
        assert remote.recv(100) == b"answer to question"


def test_every_choice_of_groups_makes_rules_that_nft_takes(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "rules.nft"
    lab.add_client("local")
    some = [*itertools.combinations(Group, 1), *itertools.combinations(Group, 2), tuple(Group)]
    for groups in some:
        for servers, allow in (([], ()), (["3.3.3.3", "2001:db8::1"], (53, 3478))):
            file.write_text(rules(groups, outside="wan", servers=servers, allow=allow))
            done = lab.run("local-nat", ["nft", "-c", "-f", str(file)], capture_output=True)
            assert done.returncode == 0, (file.read_text(), done.stderr)

"""Port mappings of a real miniupnpd: seen from outside, refreshed, gone at the end, back again."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.lab.netns.box import box_named
from knothole.lab.netns.port_mapper import Mapping
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import KnotholeCommands, Program, knothole
from knothole.lab.trial import Setting, Trial, Verdict

pytestmark = pytest.mark.netns

PATIENCE = 60.0
SHORT = (
    "import knothole.engine.portmap.pcp as pcp, knothole.engine.portmap.natpmp as natpmp,"
    "knothole.io.upnp as upnp;"
    "pcp.LIFETIME_SECONDS = natpmp.LIFETIME_SECONDS = 120; upnp.LEASE_SECONDS = 4;"
)
MAPPED = """
import asyncio, sys
import knothole
from knothole.engine.endpoint.events import EndpointOutput
from knothole.lab.worker import say

async def main():
    async with knothole.Peer() as peer:
        told = None
        loop = asyncio.get_running_loop()
        over = loop.run_in_executor(None, sys.stdin.readline)
        while not over.done():
            mappings = [[m.protocol.value, *m.base, *m.external] for m in peer.port_mappings]
            granted = sorted(a.protocol.value for a in peer.endpoint.gatherer.mapper.attempts
                             if a.progress.value == "granted")
            if (mappings, granted) != told:
                told = (mappings, granted)
                say("mappings", mappings=mappings, granted=granted)
            await asyncio.sleep(0.02)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _miniupnpd_or_skip() -> None:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    if shutil.which("miniupnpd", path=path) is None:
        pytest.skip("needs miniupnpd (Debian: miniupnpd-nftables)")


class Town:
    """A server, Alice behind a router, and the programs that are run there."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.programs: list[Program] = []

    def build(self, nat: str) -> None:
        server = self.lab.add_server(addresses=2)
        self.lab.add_client("alice", nat=nat)
        self.lab.wait_ready()
        serving = self.start(
            "server", KnotholeCommands().serve(server.addresses, self.folder / "server")
        )
        self.url = str(serving.expect("ready", timeout=PATIENCE)["url"])

    def join(self, name: str) -> None:
        joining = self.start(name, KnotholeCommands().join(name, self.url))
        assert joining.wait(PATIENCE) == 0, joining.last_errors()

    def start(self, host: str, argv: list[str]) -> Program:
        env = {**os.environ, "KNOTHOLE_HOME": str(self.folder / host)}
        program = Program(self.lab, host, argv, env)
        self.programs.append(program)
        return program

    def mapped(self, *, short: bool = False) -> Program:
        """A peer of Alice's that tells its mappings until it is sent a line."""
        return self.start("alice", [sys.executable, "-c", (SHORT if short else "") + MAPPED])

    def rules(self) -> str:
        """What miniupnpd has in the router's tables."""
        chains = ["inet portmapping dnat_miniupnpd", "inet filter miniupnpd"]
        return "".join(
            line
            for chain in chains
            for line in self.lab.namespace("alice-nat").nft_json(f"list chain {chain}").split("\n")
            if '"rule"' in line
        )

    def close(self) -> None:
        for program in reversed(self.programs):
            program.close(ends_with_input=False)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with Lab() as lab:
        town = Town(lab, tmp_path)
        yield town
        town.close()


@pytest.fixture
def town6(tmp_path: Path) -> Iterator[Town]:
    with Lab(ipv6=True) as lab:
        town = Town(lab, tmp_path)
        yield town
        town.close()


def granted(program: Program, *protocols: str) -> list[list[object]]:
    """The mappings as soon as all these protocols have granted theirs."""
    event = program.find(
        lambda event: event["event"] == "mappings" and event["granted"] == sorted(protocols),
        timeout=PATIENCE,
    )
    assert event is not None, program.last_errors()
    mappings = event["mappings"]
    assert isinstance(mappings, list)
    return mappings


def lets_in(lab: Lab, mapping: list[object], seconds: float = 40.0) -> bool:
    """Whether a datagram that nobody asked for gets from a stranger into Alice's network."""
    _, host, port, external_host, external_port = mapping
    family = socket.AF_INET6 if ":" in str(external_host) else socket.AF_INET
    with lab.inside("server"):
        stranger = socket.socket(family, socket.SOCK_DGRAM)
    with stranger, lab.capture("alice") as capture:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # Again and again: one rule of a mapping is there before the other.
            stranger.sendto(b"let me in, whoever you are", (external_host, external_port))
            select.select([], [], [], 0.05)
            if any(
                packet.seen.interface == "lan" and packet.destination == (host, port)
                for packet in capture.packets()
            ):
                return True
    return False


@pytest.mark.parametrize(
    ("word", "mapping"),
    [
        ("upnp", Mapping.UPNP),
        ("natpmp", Mapping.NAT_PMP),
        ("pcp", Mapping.PCP),
        ("upnp+pcp", Mapping.UPNP | Mapping.PCP),
        ("portmap", Mapping.UPNP | Mapping.NAT_PMP | Mapping.PCP),
    ],
)
def test_a_word_says_how_the_router_can_be_asked(word: str, mapping: Mapping) -> None:
    assert box_named(f"linux+{word}").mapping == mapping
    assert box_named("linux").mapping == Mapping.NONE


def test_reference_clients_get_their_mappings_from_the_labs_router(town: Town) -> None:
    """natpmpc and upnpc, so that what is tested against is known to work."""
    if not shutil.which("natpmpc") or not shutil.which("upnpc"):
        pytest.skip("needs natpmpc and upnpc (Debian: natpmpc, miniupnpc)")
    town.lab.add_client("alice", nat="random+portmap")
    commands = (
        ["natpmpc", "-a", "4000", "4000", "udp", "600"],
        ["upnpc", "-a", town.lab.hosts["alice"].address, "5000", "5001", "UDP", "600"],
    )
    for command in commands:
        done = town.lab.run("alice", command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
    rules = town.rules()
    assert "4000" in rules and "5001" in rules


@pytest.mark.parametrize(
    ("word", "protocols"),
    [
        ("pcp", ["PCP"]),
        ("natpmp", ["NAT-PMP"]),
        ("upnp", ["UPnP"]),
        ("portmap", ["NAT-PMP", "PCP", "UPnP"]),
    ],
)
def test_a_mapping_lets_strangers_in_as_long_as_the_program_runs(
    town: Town, word: str, protocols: list[str]
) -> None:
    town.build(f"random+{word}")
    town.join("alice")
    program = town.mapped()
    [mapping] = granted(program, *protocols)
    assert mapping[3] == "1.1.1.1"
    assert lets_in(town.lab, mapping)
    program.write("leave")
    assert program.wait(PATIENCE) == 0, program.last_errors()
    assert town.rules() == ""
    assert not lets_in(town.lab, mapping, 0.3)


def test_a_mapping_is_refreshed_before_it_ends(town: Town) -> None:
    """UPnP with a lease of four seconds: the daemon removes what nobody asks for again."""
    town.build("linux+upnp")
    town.join("alice")
    program = town.mapped(short=True)
    [mapping] = granted(program, "UPnP")
    asked = town.lab.mappers["alice-nat"].log.read_text().count("#AddPortMapping")
    deadline = time.monotonic() + PATIENCE
    while town.lab.mappers["alice-nat"].log.read_text().count("#AddPortMapping") < asked + 3:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.1)
    assert lets_in(town.lab, mapping)


@pytest.mark.parametrize("word", ["pcp", "natpmp", "upnp"])
def test_after_a_restart_of_the_router_the_mapping_comes_back(
    town: Town, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    town.build(f"linux+{word}")
    town.join("alice")
    program = town.mapped()
    protocol = {"pcp": "PCP", "natpmp": "NAT-PMP", "upnp": "UPnP"}[word]
    [mapping] = granted(program, protocol)
    daemon = town.lab.mappers["alice-nat"]
    start, left = daemon.start, []
    # Right before it starts: then it tells everybody, and is asked again at once.
    monkeypatch.setattr(daemon, "start", lambda: (left.append(town.rules()), start()))
    town.lab.restart_nat("alice")
    assert left == [""]
    deadline = time.monotonic() + PATIENCE
    while not town.rules():
        assert time.monotonic() < deadline, program.last_errors()
        select.select([], [], [], 0.1)
    assert lets_in(town.lab, mapping)


def test_an_ipv6_firewall_opens_a_pinhole_by_pcp(town6: Town) -> None:
    town6.build("firewall+pcp")
    town6.join("alice")
    program = town6.mapped()
    address = town6.lab.hosts["alice"].addresses[1]
    event = program.find(
        lambda event: (
            event["event"] == "mappings" and any(each[1] == address for each in event["mappings"])
        ),
        timeout=PATIENCE,
    )
    assert event is not None, program.last_errors()
    [mapping] = [each for each in event["mappings"] if each[1] == address]
    assert mapping[3:] == mapping[1:3], "nothing is translated"
    assert lets_in(town6.lab, mapping)
    program.write("leave")
    assert program.wait(PATIENCE) == 0
    assert not lets_in(town6.lab, mapping, 0.3)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_told_not_to_it_asks_no_router(town: Town, how: str) -> None:
    town.build("linux+portmap")
    town.join("alice")
    env = {**os.environ, "KNOTHOLE_HOME": str(town.folder / "alice")}
    if how == "environment":
        env["KNOTHOLE_PORT_MAPPING"] = "off"
    option = ["--no-port-mapping"] if how == "option" else []
    with town.lab.capture("alice") as capture:
        argv = knothole("listen", "--echo", "--json", *option)
        program = Program(town.lab, "alice", argv, env)
        town.programs.append(program)
        program.expect("ready", timeout=PATIENCE)
        select.select([], [], [], 0.5)
        asked = {packet.destination.port for packet in capture.packets()} & {5351, 1900}
    assert not asked
    assert town.rules() == ""


def test_status_shows_which_protocols_worked(town: Town) -> None:
    town.build("random+portmap")
    town.join("alice")
    showing = town.start("alice", knothole("status", "--json"))
    found = {}
    for _ in range(3):
        event = showing.expect("port-mapping", timeout=PATIENCE)
        found[event["protocol"]] = (event["progress"], event["public"], event["external"][:8])
    assert found == dict.fromkeys(("PCP", "NAT-PMP", "UPnP"), ("granted", True, "1.1.1.1:"))
    assert showing.wait(PATIENCE) == 0


def test_check_says_that_with_a_mapping_everybody_is_reached(town: Town) -> None:
    town.build("random+pcp")
    town.join("alice")
    done = town.lab.run(
        "alice",
        knothole("check", "--json"),
        env={**os.environ, "KNOTHOLE_HOME": str(town.folder / "alice")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    [row] = [each for each in events if each.get("row") == "port_mapping"]
    assert row["value"].startswith("1.1.1.1:")
    assert {each["direct"] for each in events if each["event"] == "reach"} == {True}
    assert not [each for each in events if each["event"] == "advice" and "UPnP" in each["text"]]


@pytest.mark.parametrize("word", ["pcp", "natpmp", "upnp", "portmap"])
def test_behind_a_mapping_even_a_random_nat_is_reached_directly(word: str) -> None:
    patient = Setting(timeout_seconds=60.0, settle_seconds=40.0)
    with Trial((f"random+{word}", "random"), KnotholeCommands(), patient) as trial:
        for reverse in (False, True):
            run = trial.run(reverse=reverse)
            assert run.verdict is Verdict.DIRECT, run.error

"""The stage of the demo: a server, Alice and Bob behind NATs, a stranger, and the real programs."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

from knothole.lab.netns.counters import Count
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.picture import two_clients
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import KnotholeCommands, Program, ProgramFailed, knothole
from knothole.lab.report import ALICE_PORT, BOB_PORT, STRANGER, CallReport
from knothole.lab.stage import START_SECONDS, Stage
from knothole.lab.story import tell

_CALL_SECONDS: Final = 90.0
_SETTLE_SECONDS: Final = 0.5  # for what a program still does after it is ready
_KNOCK_SECONDS: Final = 0.1


class Scene(Stage):
    """Builds the lab and starts the server; both names are registered when it is entered."""

    def __init__(self, folder: Path, nat: str, line: LineSettings) -> None:
        """``folder`` gets profiles and recordings. Raises ProgramFailed, NamespacesUnavailable."""
        self._nat, self._line = nat, line
        self._started = time.monotonic()
        super().__init__(Lab(), folder)

    def build(self) -> None:
        self._place()
        self.build_seconds = time.monotonic() - self._started
        self._serve()

    def call(self, speech: Path, recording: Path, title: str) -> CallReport:
        """Alice calls Bob and speaks ``speech``; Bob answers, and records what he hears.

        A stranger knocks before. Raises ProgramFailed when a program fails, ValueError when no
        call was to be seen.
        """
        recording.parent.mkdir(parents=True, exist_ok=True)
        listen = ["listen", "--answer", "--once", "--in", "null", "--out", str(recording)]
        bob = self.launch("bob", knothole(*listen, "--json"))
        bob.expect("ready", timeout=START_SECONDS)
        time.sleep(_SETTLE_SECONDS)
        with self.lab.capture("alice", "bob", "server", "stranger") as capture:
            self._knock()
            before = self.lab.flows()
            started = time.monotonic()
            say = ["call", "bob", "--in", str(speech), "--out", "null", "--json"]
            alice = self.launch("alice", knothole(*say))
            self._end_well(alice)
            seconds = time.monotonic() - started
            after = self.lab.flows()
        self._end_well(bob)
        clients = {self.lab.public_address(name) for name in ("alice", "bob")}
        direct = relayed = Count()
        for flow, count in after.items():
            passed = count - before.get(flow, Count())
            if flow.source in clients and flow.destination in clients:
                direct += passed
            elif flow.destination in clients and flow.protocol == "udp":
                relayed += passed
        cast = two_clients(self.lab, "alice", "bob", "server", "stranger")
        journeys = capture.journeys()
        knock = next(each for each in journeys if each.first.source.host == STRANGER)
        story = tell(journeys, cast, title)
        return CallReport(story, knock, direct, relayed, recording, seconds)

    def _place(self) -> None:
        self.lab.add_server(addresses=2)
        self.lab.add_server("stranger", addresses=[STRANGER])
        for name in ("alice", "bob"):
            self.lab.add_client(name, nat=self._nat, line=self._line)
        self.lab.wait_ready()

    def _serve(self) -> None:
        """Bring up the switchboard, register both names, and give each its port."""
        commands = KnotholeCommands()
        addresses = self.lab.hosts["server"].addresses
        server = self.launch("server", commands.serve(addresses, self.folder / "server"))
        self.url = str(server.expect("ready", timeout=START_SECONDS)["url"])
        for name, port in (("alice", ALICE_PORT), ("bob", BOB_PORT)):
            joining = self.launch(name, commands.join(name, self.url))
            if joining.wait(START_SECONDS):
                raise ProgramFailed(f"{name} could not join: {joining.last_errors()}")
            # From now on programs there get this port, whatever they ask for.
            self.lab.set_ports(name, port, port)

    def _knock(self) -> None:
        with self.lab.inside("stranger"):
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:
            stranger.bind((STRANGER, 53))
            stranger.sendto(b"hello", (self.lab.public_address("alice"), ALICE_PORT))
        time.sleep(_KNOCK_SECONDS)

    @staticmethod
    def _end_well(program: Program) -> None:
        if program.wait(_CALL_SECONDS):
            raise ProgramFailed(f"{program.host} failed: {program.last_errors()}")

"""Mixed load with faults, for as long as one likes: does memory stay flat, is nobody lost?

A real server on a small internet of namespaces. Users who behave hold allocations over UDP, TCP,
TLS and DTLS and exchange datagrams, some on a plain line, some behind a router that is restarted.
Others are killed. Meanwhile the server is told to read its configuration again (SIGHUP), and is
attacked on the wire. What counts: allocations that those who behave have lost, memory, descriptors.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from knothole.engine.turn.credentials import rest_credentials
from knothole.lab.fuzz.patient import Vitals, family_of, vitals
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import Program, knothole
from knothole.lab.stage import START_SECONDS, Stage
from knothole.server.turn_secret import FILE_NAME, load_secrets

PORT: Final = 3478
EVERY_SECONDS: Final = 2.0  # between two exchanges of those who behave
SAMPLE_SECONDS: Final = 10.0
FAULT_SECONDS: Final = 15.0
ROUTER_DOWN_SECONDS: Final = 2.0
GUESTS: Final = 1000  # names of those who are killed: a name has a quota
LIFETIME_SECONDS: Final = 7 * 24 * 3600
EXPIRY_SECONDS: Final = 660.0  # ours: what the killed have left expires in 600 s
TRANSPORTS: Final = ("udp", "tcp", "tls", "dtls")
HOMES: Final = {"steady": "none", "home": "linux"}
# A router that was restarted gives UDP the same ports again; TCP connections die of it, whatever
# the server does.
SURVIVING: Final = ("udp", "dtls")


@dataclass(frozen=True, slots=True)
class Sample:
    """How the server was, so many seconds after the beginning."""

    at: float
    vitals: Vitals


class Neighbourhood(Stage):
    """The internet, the server and everybody on it. Use as a context manager."""

    def __init__(self, folder: Path, pairs: int) -> None:
        """``pairs`` of allocations of each transport at each place."""
        self._secret = ""
        self._rng = random.Random(1)  # noqa: S311 - to be repeated
        self._pairs = pairs
        self.faults: Counter[str] = Counter()
        super().__init__(Lab(), folder)

    def build(self) -> None:
        self.lab.add_server()
        for name, nat in (HOMES | {"guest": "linux", "mallory": "none"}).items():
            self.lab.add_client(name, nat=nat)
        self.lab.wait_ready()
        self._address = self.lab.hosts["server"].address
        self._serve()
        self.users = {name: self._user(name, self._pairs) for name in HOMES}
        for user in self.users.values():
            user.expect("ready", timeout=START_SECONDS)

    @property
    def vitals(self) -> Vitals:
        return vitals(self._processes)

    @property
    def is_whole(self) -> bool:
        """Whether the server's processes are those that it began with."""
        return family_of(self._server.process.pid) == self._processes

    def raid(self) -> None:
        """Attack the server on the wire."""
        where = [self._address, str(PORT), str(self._rng.randrange(1 << 32))]
        argv = [sys.executable, "-m", "knothole.lab.fuzz.raid", *where]
        program = self.launch("mallory", argv)
        program.write(json.dumps(self._credentials("mallory")))
        program.expect("done", timeout=300)
        self.end(program)

    def kill_guest(self) -> None:
        """Somebody comes, gets allocations by every transport, and dies without a word."""
        guest = self._user("guest", 1, f"guest{self.faults['guest killed'] % GUESTS}")
        guest.expect("ready", timeout=START_SECONDS)
        time.sleep(2 * EVERY_SECONDS)
        guest.process.send_signal(signal.SIGKILL)
        self.end(guest)

    def restart_router(self) -> None:
        """The router of those at home is off for a moment, and has forgotten every connection."""
        self.lab.plug("home", False)
        self.lab.router("home").namespace.flush_conntrack()
        time.sleep(ROUTER_DOWN_SECONDS)
        self.lab.plug("home", True)

    def hang_up(self) -> None:
        """SIGHUP: the server reads its configuration again."""
        self._server.process.send_signal(signal.SIGHUP)

    def leave(self) -> dict[str, Any]:
        """Those who behave go home; what they say of the time."""
        said = {}
        for name, user in self.users.items():
            process = user.process
            assert process.stdin is not None
            process.stdin.close()
            said[name] = user.expect("end", timeout=START_SECONDS)
        return said

    def _serve(self) -> None:
        data = self.folder / "server"
        config = self.folder / "server.toml"
        config.write_text(f'data = "{data}"\n[relay]\nallocations-per-user = 64\n')
        argv = knothole("serve", "--host", self._address, "--config", str(config), "--json")
        self._server = self.launch("server", argv)
        self._server.expect("ready", timeout=START_SECONDS)
        self._processes = family_of(self._server.process.pid)
        self._secret = load_secrets(data / FILE_NAME)[0]

    def _user(self, place: str, pairs: int, name: str = "") -> Program:
        program = self.launch(place, [sys.executable, "-m", "knothole.lab.relay_user"])
        order = {
            "server": [self._address, PORT],
            "transports": SURVIVING if place == "home" else TRANSPORTS,
            "pairs": pairs,
            "every_seconds": EVERY_SECONDS,
        }
        program.write(json.dumps(order | self._credentials(name or place)))
        return program

    def _credentials(self, name: str) -> dict[str, str]:
        made = rest_credentials(self._secret, name, LIFETIME_SECONDS, time.time())
        return {"username": made.username, "password": made.password}


class Watch:
    """Keeps the time, takes samples, makes faults in turn."""

    def __init__(self, stage: Neighbourhood, *, quiet: bool) -> None:
        self._stage = stage
        self._quiet = quiet
        self._begun = time.monotonic()
        self._sampled_at = self._told_at = -SAMPLE_SECONDS
        self.samples: list[Sample] = []
        self.troubles: list[str] = []
        self._lost: set[str] = set()
        self._latest: dict[str, dict[str, Any]] = {}

    def run(self, seconds: float, *, faults: bool = True) -> None:
        """Go on for so long."""
        stage = self._stage
        kinds = {
            "guest killed": stage.kill_guest,
            "router restarted": stage.restart_router,
            "SIGHUP": stage.hang_up,
            "raid": stage.raid,
        }
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.troubles:
            next_fault = time.monotonic() + FAULT_SECONDS
            if faults:
                name = list(kinds)[sum(stage.faults.values()) % len(kinds)]
                kinds[name]()
                stage.faults[name] += 1
            while time.monotonic() < min(next_fault, until):
                self._look()
                time.sleep(0.5)

    def settle(self, descriptors: int) -> None:
        """Until what the killed have left has expired."""
        until = time.monotonic() + EXPIRY_SECONDS
        while self._stage.vitals.descriptors > descriptors and time.monotonic() < until:
            self._look()
            time.sleep(0.5)
        left = self._stage.vitals.descriptors
        if left > descriptors:
            self.troubles.append(f"{left} descriptors are left, of {descriptors}")

    def told(self, said: dict[str, Any]) -> None:
        """What those who behave say."""
        for name, report in said.items():
            self._latest[name] = report
            for each in report["lost"]:
                if (line := f"{name}: {each}") not in self._lost:
                    self._lost.add(line)
                    self._tell(f"LOST: {line}")

    def facts(self) -> dict[str, Any]:
        """What it came to."""
        half = len(self.samples) // 2
        resident = [sample.vitals.resident_kib / 1024 for sample in self.samples]
        return {
            "minutes": round((time.monotonic() - self._begun) / 60, 1),
            "faults": dict(self._stage.faults),
            "exchanges": sum(each["rounds"] for each in self._latest.values()),
            "missed": sum(each["missed"] for each in self._latest.values()),
            "lost": sorted(self._lost),
            "resident_mib": {
                "first": round(resident[0], 1),
                "median of the first half": round(statistics.median(resident[: half + 1]), 1),
                "median of the second half": round(statistics.median(resident[half:]), 1),
                "last": round(resident[-1], 1),
                "most": round(max(resident), 1),
            },
            "descriptors": {
                "first": self.samples[0].vitals.descriptors,
                "most": max(sample.vitals.descriptors for sample in self.samples),
                "last": self.samples[-1].vitals.descriptors,
            },
            "troubles": self.troubles,
        }

    def _look(self) -> None:
        now = time.monotonic()
        for name, user in self._stage.users.items():
            report = user.find(lambda event: event["event"] == "report", timeout=0)
            if report is not None:
                self.told({name: report})
        if now - self._sampled_at < SAMPLE_SECONDS:
            return
        self._sampled_at = now
        if not self._stage.is_whole:
            self.troubles.append("a process of the server has ended")
            return
        self.samples.append(Sample(now - self._begun, self._stage.vitals))
        if now - self._told_at >= 60:
            self._told_at = now
            rounds = sum(each["rounds"] for each in self._latest.values())
            missed = sum(each["missed"] for each in self._latest.values())
            self._tell(
                f"{self.samples[-1].at / 60:6.1f} min  {self.samples[-1].vitals}  "
                f"{rounds} exchanges, {missed} missed, {len(self._lost)} lost  "
                + ", ".join(f"{count} {what}" for what, count in self._stage.faults.items())
            )

    def _tell(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of load (default: 60)")
    parser.add_argument("--pairs", type=int, default=1, help="of each transport at each place")
    parser.add_argument("--no-settle", action="store_true", help="do not wait for what expires")
    parser.add_argument("--json", action="store_true", help="one object at the end")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="knothole-endurance-") as folder,
        Neighbourhood(Path(folder), options.pairs) as stage,
    ):
        watch = Watch(stage, quiet=options.json)
        stage.raid()  # tables, caches and what libuv opens once are what they will be
        watch.run(10.0, faults=False)
        calm = stage.vitals.descriptors
        watch.run(60 * options.minutes)
        if not options.no_settle:
            watch.settle(calm)
        watch.told(stage.leave())
        facts = watch.facts()
    if options.json:
        print(json.dumps(facts))
    else:
        print(json.dumps(facts, indent=2))
    return 1 if facts["lost"] or facts["troubles"] else 0

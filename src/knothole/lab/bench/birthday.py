"""How many probes it takes to find a random port: measured, against the theory.

Whole clients in the simulator. For each kind of pair the share of runs that had a hit after so many
probes is drawn with the theoretical curve, its 95 % interval at each point, and the band that a
whole measured curve stays in with 95 % (Dvoretzky, Kiefer, Wolfowitz; Massart's constant).
"""

from __future__ import annotations

import argparse
import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knothole.engine.ice.stray import STRAY_PRIORITY
from knothole.engine.predict.budget import Budget
from knothole.engine.predict.odds import birthday, interval, meeting_after
from knothole.engine.predict.plan import crowd, holes_of
from knothole.lab.bench.curve_svg import Curve, draw_curves
from knothole.lab.sim.behaviour import BEHAVIOURS, Dependence, FilterScope, NatBehaviour, Sharing
from knothole.lab.sim.pair import Pair, Side
from knothole.lab.sim.ports import RandomPorts
from knothole.lab.sim.trace import Action, TraceEntry
from knothole.wire import nat
from knothole.wire.address import Address
from knothole.wire.signal.plans import PlanTerms
from knothole.wire.stun import looks_like_stun

BY_PORT: Final = nat.Dependence.ADDRESS_AND_PORT_DEPENDENT
ONE_WAY_SECONDS: Final = 0.02  # between the two clients
CONFIDENCE_FACTOR: Final = math.sqrt(math.log(2 / 0.05) / 2)  # of the DKW band, times 1/sqrt(runs)
SURE: Final = 0.998  # ours: where a curve is as good as at its end
_STRAY: Final = STRAY_PRIORITY.to_bytes(4, "big")
BOB_PORT: Final = 5000  # kept by his NAT
PUBLIC: Final = {"1.1.1.1": "alice", "2.2.2.2": "bob"}


@dataclass(frozen=True, slots=True)
class Case:
    """A pair of NATs: at Alice's a random port out of ``pool``, at Bob's too where ``both``."""

    name: str
    pool: tuple[int, int]
    both: bool = False

    @property
    def size(self) -> int:
        return self.pool[1] - self.pool[0] + 1


CASES: Final = (
    Case("all ports, against a fixed one", (1024, 65535)),
    Case("a pool of 2048, against a fixed port", (40000, 42047)),
    Case("a pool of 256, against a fixed port", (40000, 40255)),
    Case("a pool of 256 at both ends", (40000, 40255), both=True),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: how many probes it took (None: no hit), and how many holes more than probes there
    were when the scan began (None: it did not)."""

    probes: int | None
    lead: int | None = None


def play(case: Case, seed: int) -> Measured:
    """One call in the simulator, until it is direct or its budget is spent."""
    varying = Side(_behaviour(case), _report(case), budget=Budget())
    other = varying if case.both else Side(BEHAVIOURS["linux"])
    pair = Pair(seed, (varying, other))
    watch = _Watch(pair, both=case.both)
    pair.call()
    pair.direct_within(8.0)
    return watch.measured()


class _Watch:
    """Notes when probes leave, and the first one that comes through a NAT."""

    def __init__(self, pair: Pair, *, both: bool) -> None:
        self._both = both
        self._scan_at: float | None = None
        self._sent: dict[str, list[tuple[float, int]]] = {"alice": [], "bob": []}
        self._hit_at: float | None = None
        self._holes: dict[int, float] = {}  # Alice's ports towards Bob's, and since when
        self._seen: set[tuple[Address, Address]] = set()
        pair.world.trace.listeners.append(self._see)

    def measured(self) -> Measured:
        """Bob's probes count; where both ends send the same, the smaller number of both."""
        probes, opened = self._sent["bob"], [at for at, _ in self._sent["alice"]]
        lead = None
        if self._scan_at is not None:
            before = sum(at < self._scan_at for at, _ in probes)
            lead = bisect_right(opened, self._scan_at + ONE_WAY_SECONDS) - before
        if self._both:
            if self._hit_at is None:
                return Measured(None, lead)
            later_at = self._hit_at - ONE_WAY_SECONDS  # when the later of the two was sent
            counts = (sum(at <= later_at for at, _ in each) for each in self._sent.values())
            return Measured(max(1, min(counts)), lead)
        # Not the first packet that comes in: where Alice's was the later one it comes in a line
        # later than one of Bob's that would have been as good.
        times = [at for at, _ in probes]
        met = [
            max(number, bisect_left(times, self._holes[port] - ONE_WAY_SECONDS)) + 1
            for number, (_, port) in enumerate(probes)
            if port in self._holes
        ]
        return Measured(min(met, default=None), lead)

    def _see(self, entry: TraceEntry) -> None:
        """Ordinary checks between the two count like probes, as they open holes just as well; not
        where both ends aim, because nobody aims at what they open."""
        packet = entry.packet
        if packet.destination.host not in PUBLIC or not looks_like_stun(packet.payload):
            return
        is_probe = _STRAY in packet.payload
        if self._both and not is_probe:
            return
        if is_probe and entry.action is Action.SEND and entry.node == "bob":
            self._scan_at = self._scan_at or entry.at
        if entry.action is Action.SEND and entry.node in self._sent:
            ends = packet.source, packet.destination
            if PUBLIC.get(packet.destination.host) != entry.node and ends not in self._seen:
                self._seen.add(ends)
                self._sent[entry.node].append((entry.at, packet.destination.port))
        elif entry.action is Action.OUT and entry.translated is not None:
            if entry.node == "alice-router" and packet.destination.port == BOB_PORT:
                self._holes.setdefault(entry.translated.source.port, entry.at)
        elif entry.action is Action.IN and packet.source.host in PUBLIC:
            self._hit_at = self._hit_at or entry.at


def theory(case: Case, lead: int, probes: int) -> float:
    """The chance of a hit by so many probes. Holes open at the pace of the probes, ``lead`` of
    them before."""
    terms = PlanTerms(_report(case), Budget().probes, Budget().sockets)
    if case.both:
        many = crowd(terms)
        rounds = [many] * (probes // many) + [probes % many]
        return meeting_after(rounds, rounds, (case.size, case.size))
    return birthday(min(holes_of(terms) + 1, lead + probes - 1), case.size, probes)


def _behaviour(case: Case) -> NatBehaviour:
    return NatBehaviour(
        mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filter_scope=FilterScope.MAPPING,
        sharing=Sharing.PER_PEER,
        ports=RandomPorts(*case.pool),
    )


def _report(case: Case) -> nat.NatReport:
    return nat.NatReport(mapping=BY_PORT, filtering=BY_PORT, ports=nat.Random(*case.pool))


def curve_of(case: Case, runs: Sequence[Measured]) -> Curve:
    """The measured share and the theory, for each number of probes until the theory is sure."""
    leads = [run.lead for run in runs if run.lead is not None]
    lead = round(sum(leads) / len(leads))
    expected: list[float] = []
    while len(expected) < Budget().probes and (not expected or expected[-1] < SURE):
        expected.append(theory(case, lead, len(expected) + 1))
    hits = [run.probes for run in runs if run.probes is not None]
    numbers = range(1, len(expected) + 1)
    measured = [sum(hit <= number for hit in hits) / len(runs) for number in numbers]
    band = CONFIDENCE_FACTOR / math.sqrt(len(runs))
    return Curve(case.name, len(runs), tuple(expected), tuple(measured), band)


def _row(curve: Curve) -> str:
    def needed(values: Sequence[float], share: float) -> str:
        return str(next((n for n, value in enumerate(values, 1) if value >= share), "-"))

    low, high = interval(round(curve.measured[-1] * curve.runs), curve.runs)
    cells = [
        curve.name,
        str(curve.runs),
        *(f"{needed(curve.measured, p)} ({needed(curve.theory, p)})" for p in (0.5, 0.9)),
        f"{curve.measured[-1]:.1%} [{low:.1%}, {high:.1%}]",
        f"{curve.farthest:.3f} (band {curve.band:.3f})",
        "yes" if curve.inside else "NO",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD: Final = (
    "| pair | runs | probes to 50 % (theory) | to 90 % | hits in the end [95 %] | farthest off "
    "| inside |\n|---|---:|---:|---:|---:|---:|---|"
)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench birthday", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="in the simulator, of each pair")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--out", type=Path, default=Path("out/birthday.svg"), help="the picture")
    parser.add_argument("--json", action="store_true", help="one object per pair")
    options = parser.parse_args(arguments)
    curves = []
    if not options.json:
        print(HEAD, flush=True)
    for case in CASES:
        seeds = range(options.seed, options.seed + options.runs)
        curve = curve_of(case, [play(case, seed) for seed in seeds])
        curves.append(curve)
        _tell(curve, options.json)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(draw_curves(curves), encoding="utf-8")
    return 0 if all(curve.inside for curve in curves) else 1


def _tell(curve: Curve, as_json: bool) -> None:
    show: Callable[[Curve], str] = _facts if as_json else _row
    print(show(curve), flush=True)


def _facts(curve: Curve) -> str:
    facts = {
        "pair": curve.name,
        "runs": curve.runs,
        "theory": [round(value, 5) for value in curve.theory],
        "measured": [round(value, 5) for value in curve.measured],
        "farthest": curve.farthest,
        "band": curve.band,
        "inside": curve.inside,
    }
    return json.dumps(facts)

"""How many probes it takes to find a random port: measured, against the theory.

Whole clients in the simulator, and with ``--namespaces`` real programs across NATs of the kernel.
For each kind of pair the share of runs that had a hit after so many probes is drawn with the
theoretical curve, which is the mean of what each run had to expect (birthday_theory), its 95 %
interval at each point, and the band that a whole measured curve stays in with 95 % (Dvoretzky,
Kiefer, Wolfowitz; Massart's constant).
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knothole.engine.predict.budget import Budget
from knothole.engine.predict.odds import interval
from knothole.engine.predict.plan import crowd, holes_of
from knothole.lab.bench.birthday_theory import Aimer, Meeting, Pool, Scan, size_of
from knothole.lab.bench.curve_svg import Curve, draw_curves
from knothole.lab.bench.probes import PUBLIC, Measured, Probes
from knothole.lab.sim.behaviour import BEHAVIOURS, Dependence, FilterScope, NatBehaviour, Sharing
from knothole.lab.sim.pair import Pair, Side
from knothole.lab.sim.ports import RandomPorts
from knothole.lab.sim.trace import Action, TraceEntry
from knothole.wire import nat
from knothole.wire.signal.plans import PlanTerms
from knothole.wire.stun import looks_like_stun

BY_PORT: Final = nat.Dependence.ADDRESS_AND_PORT_DEPENDENT
CONFIDENCE_FACTOR: Final = math.sqrt(math.log(2 / 0.05) / 2)  # of the DKW band, times 1/sqrt(runs)
SURE: Final = 0.998  # ours: where a curve is as good as at its end
BOB_PORT: Final = 5000  # kept by his NAT
ORDINARY: Final = 1  # hole beside those of the plan: by ordinary checks from the standing socket


@dataclass(frozen=True, slots=True)
class Case:
    """A pair of NATs: at Alice's a random port out of ``pool``, at Bob's too where ``both``."""

    name: str
    pool: Pool
    both: bool = False

    @property
    def size(self) -> int:
        return size_of(self.pool)


CASES: Final = (
    Case("all ports, against a fixed one", (1024, 65535)),
    Case("a pool of 2048, against a fixed port", (40000, 42047)),
    Case("a pool of 256, against a fixed port", (40000, 40255)),
    Case("a pool of 256 at both ends", (40000, 40255), both=True),
)


def play(case: Case, seed: int) -> Measured:
    """One call in the simulator, until it is direct or its budget is spent."""
    varying = Side(_behaviour(case), terms_for(case.pool).nat, budget=Budget())
    other = varying if case.both else Side(BEHAVIOURS["linux"])
    pair = Pair(seed, (varying, other))
    watch = _Watch(pair, both=case.both)
    pair.call()
    pair.direct_within(8.0)
    return watch.seen.measured()


class _Watch:
    """Tells what a simulated network carries between the two clients."""

    def __init__(self, pair: Pair, *, both: bool) -> None:
        self.seen = Probes(both=both, bob_port=BOB_PORT)
        pair.world.trace.listeners.append(self._see)

    def _see(self, entry: TraceEntry) -> None:
        packet = entry.packet
        if packet.destination.host not in PUBLIC or not looks_like_stun(packet.payload):
            return
        ends = packet.source, packet.destination
        if entry.action is Action.SEND and entry.node in PUBLIC.values():
            self.seen.sent(entry.node, entry.at, *ends, packet.payload)
        elif entry.action is Action.OUT and entry.translated is not None:
            if entry.node == "alice-router":
                self.seen.opened(entry.at, entry.translated.source.port, packet.destination.port)
        elif entry.action is Action.IN and packet.source.host in PUBLIC:
            self.seen.came_in(entry.at, packet.payload)


def theory(case: Case, run: Measured) -> Scan | Meeting:
    """What that run had to expect: here both ends know the pool beforehand."""
    terms, known = terms_for(case.pool), ((0, case.pool),)
    if case.both:
        end = Aimer(known, case.pool, crowd(terms))
        return Meeting((end, end))
    return Scan(known, case.pool, run.holes, holes_of(terms) + ORDINARY, run.pace)


def terms_for(pool: Pool) -> PlanTerms:
    """What an end with random ports out of ``pool`` brings to a plan."""
    report = nat.NatReport(mapping=BY_PORT, filtering=BY_PORT, ports=nat.Random(*pool))
    return PlanTerms(report, Budget().probes, Budget().sockets)


def _behaviour(case: Case) -> NatBehaviour:
    return NatBehaviour(
        mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filter_scope=FilterScope.MAPPING,
        sharing=Sharing.PER_PEER,
        ports=RandomPorts(*case.pool),
    )


def curve_of(case: Case, runs: Sequence[Measured]) -> Curve:
    """The measured share and the theory, for each number of probes until the theory is sure."""
    return compare(case.name, [(run, theory(case, run)) for run in runs])


def compare(name: str, pairs: Sequence[tuple[Measured, Scan | Meeting]]) -> Curve:
    """The measured share of hits over what was to be expected of these runs after so many
    probes."""
    runs = [run for run, _ in pairs]
    chances = [(each.chances(), count) for each, count in Counter(e for _, e in pairs).items()]
    expected: list[float] = []
    while len(expected) < Budget().probes and (not expected or expected[-1] < SURE):
        expected.append(sum(next(chance) * count for chance, count in chances) / len(runs))
    hits = [run.probes for run in runs if run.probes is not None]
    numbers = range(1, len(expected) + 1)
    measured = [sum(hit <= number for hit in hits) / len(runs) for number in numbers]
    band = CONFIDENCE_FACTOR / math.sqrt(len(runs))
    return Curve(name, len(runs), tuple(expected), tuple(measured), band)


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
    parser.add_argument(
        "--runs", type=int, default=200, help="simulated, of each pair (default: 200)"
    )
    parser.add_argument("--namespaces", type=int, default=0, help="runs of each across kernel NATs")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--out", type=Path, default=Path("out/birthday.svg"), help="the picture")
    parser.add_argument("--json", action="store_true", help="one object per pair")
    options = parser.parse_args(arguments)
    curves = []
    if not options.json:
        print(HEAD, flush=True)
    for curve in _curves(options):
        curves.append(curve)
        _tell(curve, options.json)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(draw_curves(curves), encoding="utf-8")
    return 0 if all(curve.inside for curve in curves) else 1


def _curves(options: argparse.Namespace) -> Iterator[Curve]:
    for case in CASES if options.runs else ():
        seeds = range(options.seed, options.seed + options.runs)
        yield curve_of(case, [play(case, seed) for seed in seeds])
    if options.namespaces:
        from knothole.lab.bench.birthday_netns import curve_in_namespaces  # Linux only

        for case in CASES:
            yield curve_in_namespaces(case, options.namespaces)


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

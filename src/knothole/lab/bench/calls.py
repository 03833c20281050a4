"""Many simulated calls of the whole program over random NATs, lines and neighbours.

Each number is a scenario of its own and the same for ever. Every relayed call is held against the
odds that an oracle gives, which knows both NATs and shares no code with the plans.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

from knothole.engine.endpoint.history import GaveUp, PlanChosen
from knothole.lab.sim.behaviour import NatBehaviour
from knothole.lab.sim.drawn import draw_scenario
from knothole.lab.sim.odds import odds_between
from knothole.lab.sim.whole_call import NAMES, WholeCall

CONNECT_SECONDS: Final = 5.0
DIRECT_SECONDS: Final = 12.0
STAY_SECONDS: Final = 1.0
WORTH_TRYING: Final = 0.5  # ours, as the plans have it: below these odds a relay is right
CERTAIN: Final = 0.999


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call. Seconds from the call on, None for what never came; ``odds`` and ``why`` are the
    oracle's, ``plan`` and ``reason`` the program's own words for what it did."""

    seed: int
    nats: str
    path: str
    connected_after: float | None
    direct_after: float | None
    odds: float
    why: str
    plan: str
    reason: str
    cpu_seconds: float

    @property
    def failed(self) -> bool:
        return self.connected_after is None or self.path == "none"

    @property
    def relayed_rightly(self) -> bool:
        return self.path != "direct" and self.odds < WORTH_TRYING

    @property
    def missed(self) -> bool:
        """Relayed though direct was to be expected."""
        return self.path != "direct" and self.odds >= WORTH_TRYING


def run_call(seed: int) -> Outcome:
    """Play the scenario of that number."""
    started = time.process_time()
    scenario = draw_scenario(seed)
    call = WholeCall(scenario).place()
    connected = call.connected(CONNECT_SECONDS)
    connected_after = call.world.now - call.called_at if connected else None
    direct = connected and call.direct(DIRECT_SECONDS)
    direct_after = call.world.now - call.called_at if direct else None
    call.world.run(STAY_SECONDS)
    alice, bob = (call.places[name].routers for name in NAMES)
    odds = odds_between(alice, bob)
    plan = reason = ""
    history = call.history("alice")
    for noted in history.steps if history else ():
        match noted.step:
            case PlanChosen():
                plan, reason = noted.step.plan, noted.step.reason
            case GaveUp():
                reason = noted.step.reason
    together = " (same NAT)" if scenario.same_nat else ""
    together += f" (both behind {scenario.carrier})" if scenario.carrier else ""
    return Outcome(
        seed,
        " - ".join(_name(nat) for nat in scenario.nats) + together,
        call.last_path(),
        connected_after,
        direct_after,
        odds.probability,
        odds.reason,
        plan,
        reason,
        time.process_time() - started,
    )


def run_calls(seeds: Iterable[int], jobs: int = 1) -> list[Outcome]:
    """Play many, in so many processes."""
    if jobs == 1:
        return [run_call(seed) for seed in seeds]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(run_call, seeds, chunksize=8))


def complaints(outcomes: Sequence[Outcome]) -> list[str]:
    """What is wrong with the outcomes: failed calls, direct ones that could not be, relayed ones
    that ought to be direct, one by one where that was certain and too many of them otherwise."""
    lines = []
    for each in outcomes:
        if each.failed:
            lines.append(f"{each.seed}: {each.nats}: failed")
        elif each.path == "direct" and not each.odds:
            lines.append(f"{each.seed}: {each.nats}: direct, though {each.why}")
        elif each.missed and each.odds >= CERTAIN:
            lines.append(f"{each.seed}: {each.nats}: {each.path}, though {each.why}")
    uncertain = [each for each in outcomes if WORTH_TRYING <= each.odds < CERTAIN]
    missed = [each for each in uncertain if each.missed]
    expected = math.fsum(1 - each.odds for each in uncertain)
    spread = math.sqrt(math.fsum(each.odds * (1 - each.odds) for each in uncertain))
    if len(missed) > expected + 3 * spread:
        lines.append(
            f"{len(missed)} of {len(uncertain)} calls missed a direct path that is likely; "
            f"{expected:.1f} were to be expected: "
            + ", ".join(f"{each.seed} ({each.nats})" for each in missed)
        )
    return lines


def summary(outcomes: Sequence[Outcome]) -> str:
    """All in one line."""
    paths = Counter("failed" if each.failed else each.path for each in outcomes)
    first = [each.connected_after for each in outcomes if each.connected_after is not None]
    direct = [each.direct_after for each in outcomes if each.direct_after is not None]
    rightly = sum(each.relayed_rightly and not each.failed for each in outcomes)
    missed = sum(each.missed and not each.failed for each in outcomes)
    cpu = math.fsum(each.cpu_seconds for each in outcomes) / len(outcomes)
    return (
        f"{len(outcomes)} calls: {paths['direct']} direct, {rightly} relayed with the oracle's "
        f"consent, {missed} relayed without, {paths['failed']} failed. Payload at both ends: "
        f"median {statistics.median(first or [0.0]):.3f} s, worst {max(first, default=0.0):.3f} s. "
        f"Direct: median {statistics.median(direct or [0.0]):.3f} s, worst "
        f"{max(direct, default=0.0):.3f} s. {cpu:.2f} s of CPU a call."
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench calls", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first scenario")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one object per call, and one for all")
    options = parser.parse_args(arguments)
    outcomes = run_calls(range(options.first, options.first + options.runs), options.jobs)
    wrong = complaints(outcomes)
    if options.json:
        for each in outcomes:
            print(json.dumps(dataclasses.asdict(each)))
        print(json.dumps({"summary": summary(outcomes), "complaints": wrong}))
    else:
        print(summary(outcomes))
        for line in wrong:
            print(f"  {line}")
    return 1 if wrong else 0


def _name(nat: str | NatBehaviour) -> str:
    if isinstance(nat, str):
        return nat
    return f"{nat.mapping.value} mapping/{nat.filtering.value} filtering/{nat.ports}"

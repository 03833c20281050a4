"""``./dev fuzz``: attack a real server on the wire for minutes, with its metrics as the witness.

A server is started on loopback. Attacks take turns; somebody who behaves, over UDP, TCP, TLS and
DTLS, exchanges datagrams through it after each, and /metrics and /healthz are asked every second.
It is an error when those who behave lose an allocation or nothing gets through, when a process ends
or writes to standard error, when /healthz says no, the relay tells nothing for ten seconds or a
request gets 500 (Server Error), when memory grows, and when at the end there are more allocations,
connections, descriptors, tasks or entries of the accelerator than before the first attack.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from knothole.io.loop import run_loop
from knothole.lab.fuzz.patient import Patient, everything_on
from knothole.lab.fuzz.siege import Outcome, Siege


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-accelerator", action="store_true", help="user space alone relays")
    parser.add_argument("--json", action="store_true", help="one object at the end")
    options = parser.parse_args(arguments)
    until = time.monotonic() + 60 * options.minutes

    def tell(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    tell(f"seed {options.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="knothole-fuzz-") as folder,
        Patient(
            Path(folder),
            free_port(),
            *(["--no-accelerator"] if options.no_accelerator else []),
            config=everything_on(Path(folder)),
        ) as patient,
    ):

        async def siege() -> Outcome:
            return await Siege(patient, options.seed).run(
                lambda rounds: rounds == 0 or time.monotonic() < until, tell
            )

        outcome = run_loop(siege())
    if options.json:
        print(json.dumps(_facts(outcome)))
    else:
        attacks = sum(outcome.attacks.values())
        print(f"{attacks} attacks, {outcome.exchanges} exchanges of those who behave")
        print(f"before:      {outcome.calm}")
        print(f"at most:     {_listed(outcome.witness.most)}")
        print(f"after all:   {outcome.said}")
        print(f"first round: {outcome.before}\nafter all:   {outcome.after}")
        for title, name, label in _COUNTERS:
            found = _since(outcome, name, label)
            print(f"{title + ':':<12} {_listed(found) or 'nothing'}")
        witness = outcome.witness
        print(f"asked {witness.asked} times; loops at worst {witness.worst_lag:.3f} s late")
        for trouble in outcome.troubles:
            print(f"TROUBLE: {trouble}")
    return 1 if outcome.troubles else 0


def free_port() -> int:
    """A port of loopback free for UDP and TCP, the next one too."""
    dice = random.SystemRandom()
    while True:
        port = dice.randrange(20_000, 32_000)
        try:
            for number in (port, port + 1):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET, kind) as sock:
                        sock.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


# Title, metric, label: what was counted during the siege.
_COUNTERS: Final = (
    ("ended", "knothole_allocations_ended_total", "reason"),
    ("dropped", "knothole_dropped_packets_total", "reason"),
    ("answered", "knothole_turn_requests_total", "code"),
    ("relayed", "knothole_relayed_packets_total", "path"),
)


def _since(outcome: Outcome, name: str, label: str) -> dict[str, int]:
    before = outcome.calm.by(name, label)
    now = outcome.said.by(name, label)
    return {each: now[each] - before.get(each, 0) for each in sorted(now)}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _facts(outcome: Outcome) -> dict[str, object]:
    return {
        "held_before": outcome.calm.held,
        "held_at_most": dict(outcome.witness.most),
        "held_after": outcome.said.held,
        **{title: _since(outcome, name, label) for title, name, label in _COUNTERS},
        "asked": outcome.witness.asked,
        "worst_lag_seconds": round(outcome.witness.worst_lag, 3),
        "attacks": dict(outcome.attacks),
        "exchanges": outcome.exchanges,
        "resident_kib": [outcome.before.resident_kib, outcome.after.resident_kib],
        "descriptors": [outcome.before.descriptors, outcome.after.descriptors],
        "troubles": outcome.troubles,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

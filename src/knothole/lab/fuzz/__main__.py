"""``./dev fuzz``: attack a real server on the wire for minutes, with its memory as the witness.

A server is started on loopback. Attacks take turns; somebody who behaves, over UDP, TCP, TLS and
DTLS, exchanges datagrams through it after each. It is an error when their allocations are lost or
nothing gets through, when a process ends or writes to standard error, when descriptors are left.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from knothole.io.loop import run_loop
from knothole.lab.fuzz.patient import Patient
from knothole.lab.fuzz.siege import Outcome, Siege


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one object at the end")
    options = parser.parse_args(arguments)
    until = time.monotonic() + 60 * options.minutes

    def tell(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    tell(f"seed {options.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="knothole-fuzz-") as folder,
        Patient(Path(folder), free_port()) as patient,
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
        print(f"first round: {outcome.before}\nafter all:   {outcome.after}")
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


def _facts(outcome: Outcome) -> dict[str, object]:
    return {
        "attacks": dict(outcome.attacks),
        "exchanges": outcome.exchanges,
        "resident_kib": [outcome.before.resident_kib, outcome.after.resident_kib],
        "descriptors": [outcome.before.descriptors, outcome.after.descriptors],
        "troubles": outcome.troubles,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``./dev bench NAME [OPTIONS]``: run one measurement."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

BENCHMARKS: Final = {
    "allocations": "coturn and knothole as relays: allocations a second, memory of each, 20,000",
    "calls": "1,000 simulated calls over random NATs, lines and neighbours, and an oracle",
    "birthday": "how many probes find a random port, against the theory, as a picture",
    "call": "a spoken call across two NATs: likeness, delay, CPU against the codec alone",
    "endurance": "a server under load, faults and attacks for an hour: memory, who is lost",
    "recovery": "how long a line is silent when a router restarts or the server is killed",
    "pipe": "knothole pipe across two NATs of the kernel, against plain UDP there",
    "relay": "coturn and knothole as relays: datagrams a second, CPU, delay, as ratios",
    "throughput": "one stream between two processes, against plain UDP of the same shape",
    "voice": "a call over a line in memory: likeness, delay, and CPU against the codec alone",
}


def main(arguments: Sequence[str]) -> int:
    """Run the measurement named first; 2 when there is none of that name."""
    if not arguments or arguments[0] not in BENCHMARKS:
        print("./dev bench NAME [OPTIONS], where NAME is one of")
        for name, what in BENCHMARKS.items():
            print(f"  {name:12} {what}")
        return 0 if arguments[:1] in (["--help"], ["-h"]) else 2
    module = importlib.import_module(f"knothole.lab.bench.{arguments[0]}")
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

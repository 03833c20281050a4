"""How long a line is silent when a router restarts, an address changes or the server is killed.

Real programs across two NATs of the kernel. The reference is the pause between two pings of an
undisturbed line in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from knothole.lab.recovery import INTERVAL_SECONDS, Gap, Town


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench recovery", description=__doc__)
    parser.add_argument("--nats", default="linux,linux", help="kinds of Alice's and Bob's NAT")
    parser.add_argument("--one-way", type=float, default=10.0, help="ms to the internet, each")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args(arguments)
    first, _, second = options.nats.partition(",")
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="knothole-recovery-") as folder:
            stage = Town(Path(folder), nats=(first, second or first), one_way_ms=options.one_way)
            with stage:
                _tell(options, "router of the caller restarted", stage.restart_router("alice"))
                _tell(options, "router of the callee restarted", stage.restart_router("bob"))
                moved = stage.restart_router("alice", new_address=True)
                _tell(options, "caller has a new public address", moved)
                _tell(options, "caller has another local address", stage.change_interface("alice"))
                _tell(options, "callee has another local address", stage.change_interface("bob"))
                _tell(options, "callee slept for 5 s, after waking", stage.suspend())
                after = stage.restart_router_after_server("alice")
                _tell(options, "router of the caller, server new since", after)
                gap, back = stage.kill_server()
                _tell(options, "server killed, line in progress", gap)
                if options.json:
                    print(json.dumps({"what": "callable after server start", "seconds": back}))
                else:
                    print(f"callable again after the server's start      {back:6.2f} s", flush=True)
    return 0


def _tell(options: argparse.Namespace, what: str, gap: Gap) -> None:
    if options.json:
        facts = {"what": what, "seconds": gap.seconds, "before": gap.before, "after": gap.after}
        print(json.dumps(facts), flush=True)
        return
    pauses = gap.seconds / INTERVAL_SECONDS
    print(
        f"{what:42} {gap.seconds:6.2f} s silent ({pauses:.0f} pings)   {gap.before} -> {gap.after}",
        flush=True,
    )

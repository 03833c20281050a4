"""Every attack once, at a server somewhere: ``python -m knothole.lab.fuzz.raid HOST PORT SEED``.

Takes a line of JSON with ``username`` and ``password`` from its input; prints the event ``done``.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Sequence

from knothole.engine.turn.credentials import Credentials
from knothole.lab.fuzz.attacks import ATTACKS
from knothole.lab.fuzz.ways import Target
from knothole.lab.relay_user import say
from knothole.wire.address import parse_address


async def raid(target: Target, seed: int) -> None:
    """Make all of the trouble once, in an order of chance."""
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    names = list(ATTACKS)
    rng.shuffle(names)
    for name in names:
        await ATTACKS[name](target, rng)
    say("done", attacks=names)


def main(arguments: Sequence[str]) -> int:
    host, port, seed = arguments
    order = json.loads(sys.stdin.buffer.readline())
    credentials = Credentials(order["username"], order["password"])
    asyncio.run(raid(Target(parse_address(host, int(port)), credentials), int(seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

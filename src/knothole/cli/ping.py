"""``knothole ping``"""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter

from knothole.cli.output import Failure, Output, WrongUsage
from knothole.cli.session import line_to, path_facts, run
from knothole.peer.line import Path


def ping(
    name: Annotated[str, Parameter(help="Whom to reach")],
    /,
    *,
    count: Annotated[int | None, Parameter(name=["-c", "--count"])] = None,
    interval: Annotated[float, Parameter(name=["-i", "--interval"])] = 1.0,
    json: bool = False,
) -> int:
    """Open a line to NAME and show for each probe the round trip and the path it took.

    Example: knothole ping bob -c 5

    Parameters
    ----------
    count
        How many probes; without it until Ctrl-C.
    interval
        Seconds between two probes.
    json
        One JSON object per line.
    """
    if count is not None and count < 1:
        raise WrongUsage("-c must be at least 1.")
    if interval <= 0:
        raise WrongUsage("-i must be above 0 seconds.")
    return run(_ping(Output(json=json), name, count, interval))


async def _ping(output: Output, name: str, count: int | None, interval: float) -> int:
    answered, number = 0, 0
    loop = asyncio.get_running_loop()
    async with line_to(name, "ping") as line:
        before: Path | None = None
        await line.ping(timeout=10.0)  # the line carries; from here a lost probe is a lost probe
        due = loop.time()
        while count is None or number < count:
            number += 1
            path = line.path
            try:
                rtt = await line.probe(timeout=max(interval, 2.0))
            except TimeoutError:
                output.result(
                    "lost", f"{number}: no answer ({path})", number=number, **path_facts(path)
                )
            else:
                answered += 1
                path = line.path
                moved = before is not None and (path.kind, path.remote) != (
                    before.kind,
                    before.remote,
                )
                output.result(
                    "pong",
                    f"{number}: {rtt * 1000:.1f} ms {path}{' (path changed)' if moved else ''}",
                    number=number,
                    rtt_ms=round(rtt * 1000, 3),
                    changed=moved,
                    **path_facts(path),
                )
                before = path
            due += interval
            if count is None or number < count:
                await asyncio.sleep(max(0.0, due - loop.time()))
    if not answered:
        raise Failure(f"{name} did not answer any of {number} probes.")
    return 0

"""``knothole ping``"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Final

from cyclopts import Parameter

from knothole.cli.network import ANY_NETWORK, Network, NetworkOptions
from knothole.cli.output import Failure, Output, WrongUsage
from knothole.cli.session import interrupt_sets, line_to, path_facts, run
from knothole.peer.explanation import SOON_SECONDS
from knothole.peer.line import Line, Path

LEAST_WAIT_SECONDS: Final = 2.0  # ours: a probe is lost when it is not answered for so long


def ping(
    name: Annotated[str, Parameter(help="Whom to reach: somebody who listens, not with --answer")],
    /,
    *,
    count: Annotated[int | None, Parameter(name=["--count", "-c"])] = None,
    interval: Annotated[float, Parameter(name=["--interval", "-i"])] = 1.0,
    network: NetworkOptions = ANY_NETWORK,
    json: bool = False,
) -> int:
    """Open a line to NAME and measure it, probe by probe.

    Each shows the round trip and the path it took, and when that is another one than before.
    Ends with a summary; the exit code is 1 when no probe was answered.

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
    if not 0 < interval < 1e6:
        raise WrongUsage("-i must be above 0 seconds.")
    return run(_ping(Output(json=json), name, count, interval, network))


@dataclass(slots=True)
class _Probes:
    sent: int = 0
    round_trips: list[float] = field(default_factory=list)
    explained: bool = False
    path: Path | None = None


async def _ping(
    output: Output, name: str, count: int | None, interval: float, network: Network
) -> int:
    probes, enough = _Probes(), asyncio.Event()
    async with line_to(output, name, "ping", network) as line:
        try:
            with interrupt_sets(enough):
                await _probe_until(enough, output, line, probes, count, interval)
        finally:
            _explain_relay(output, line, probes)
            _summarize(output, line.peer_name, probes)
    if not probes.round_trips:
        raise Failure(f"{line.peer_name} did not answer any of {probes.sent} probes.")
    return 0


async def _probe_until(
    enough: asyncio.Event,
    output: Output,
    line: Line,
    probes: _Probes,
    count: int | None,
    interval: float,
) -> None:
    """Probe ``count`` times or until ``enough`` is set."""
    probing = asyncio.create_task(_probe(output, line, probes, count, interval))
    stopping = asyncio.create_task(enough.wait())
    try:
        await asyncio.wait([probing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if probing.done():
            probing.result()
    finally:
        for task in (probing, stopping):
            task.cancel()
        await asyncio.gather(probing, stopping, return_exceptions=True)


async def _probe(
    output: Output, line: Line, probes: _Probes, count: int | None, interval: float
) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while count is None or probes.sent < count:
        probes.sent += 1
        try:
            rtt = await line.ping(timeout=max(interval, LEAST_WAIT_SECONDS))
        except TimeoutError:
            path = line.path
            text = f"{probes.sent}: no answer ({path})"
            output.result("lost", text, number=probes.sent, **path_facts(path))
        else:
            _tell(output, probes, rtt, line.path)
            if line.explain().history.age_seconds >= SOON_SECONDS:
                _explain_relay(output, line, probes)
        due = max(due + interval, loop.time())
        if probes.sent != count:
            await asyncio.sleep(due - loop.time())


def _tell(output: Output, probes: _Probes, rtt: float, path: Path) -> None:
    before = probes.path
    changed = before is not None and (path.kind, path.remote) != (before.kind, before.remote)
    probes.path = path
    probes.round_trips.append(rtt)
    output.result(
        "pong",
        f"{probes.sent}: {rtt * 1000:.1f} ms {path}{' (path changed)' if changed else ''}",
        number=probes.sent,
        rtt_ms=round(rtt * 1000, 3),
        changed=changed,
        **path_facts(path),
    )


def _explain_relay(output: Output, line: Line, probes: _Probes) -> None:
    """Say in one line why it is relayed, once."""
    path = probes.path
    if path is None or path.kind == "direct" or probes.explained:
        return
    why = line.explain()
    if why.path == "relayed":
        probes.explained = True
        text = f"Relayed: {why.because}. More: knothole why {line.peer_name}"
        output.note(
            "relayed",
            text,
            peer=line.peer_name,
            cause=why.cause,
            why=why.because,
            better=list(why.better),
        )


def _summarize(output: Output, name: str, probes: _Probes) -> None:
    rtts = [rtt * 1000 for rtt in probes.round_trips]
    spread = ""
    if rtts:
        spread = f"; {min(rtts):.1f} / {sum(rtts) / len(rtts):.1f} / {max(rtts):.1f} ms"
        spread += " (least / mean / most)"
    output.result(
        "summary",
        f"{name}: {probes.sent} probes, {len(rtts)} answered{spread}",
        peer=name,
        sent=probes.sent,
        answered=len(rtts),
        least_ms=round(min(rtts), 3) if rtts else None,
        mean_ms=round(sum(rtts) / len(rtts), 3) if rtts else None,
        most_ms=round(max(rtts), 3) if rtts else None,
    )

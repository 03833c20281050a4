"""``knothole stun``"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from knothole.cli.asking import classic as ask_classic
from knothole.cli.asking import facts, find_server, levels
from knothole.cli.nat import Row, rows
from knothole.cli.output import Failure, Output
from knothole.cli.session import run
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.engine.stun.classic import ClassicTest, Verdict
from knothole.wire.nat import NatReport

TESTS = {
    ClassicTest.FIRST: "asked as usual",
    ClassicTest.SECOND: "to be answered from another address and port",
    ClassicTest.FIRST_AGAIN: "the other address, asked as usual",
    ClassicTest.THIRD: "to be answered from another port",
}


def stun(server: str, /, *, classic: bool = False, json: bool = False) -> int:
    """Ask a STUN server what stands between it and you.

    Finds facts as RFC 5780 does, from fresh sockets, in 3 s. The exit code is 1 when the server
    does not answer, or with --classic cannot tell, because it has one address only.

    Example: knothole stun stun.example.org

    Parameters
    ----------
    server
        HOST or HOST:PORT (default port: 3478).
    classic
        RFC 3489's own algorithm and verdict instead, in up to 10 s.
    json
        One JSON object per line.
    """
    output = Output(json=json)
    return run(_classic(output, server) if classic else _stun(output, server))


async def show_rows(
    output: Output, seen: NatBehaviour, report: NatReport, more: Sequence[Row] = ()
) -> None:
    """The table: each fact, and the evidence below it; ``more`` rows follow."""
    routers: Sequence[str | None] = ()
    if report.translated:
        found, routers = await levels(seen.base.host, next(iter(seen.mapped)))
        report = structs.replace(report, levels=report.levels or found or None)
    for row in (*rows(seen, report, routers), *more):
        _show(output, row)


def _show(output: Output, row: Row) -> None:
    output.result(
        "row",
        f"{row.heading:<14}{row.words}",
        row=row.name,
        value=row.value,
        text=row.words,
        evidence=row.evidence,
    )
    if not output.json:
        output.result("", f"{'':<14}  {row.evidence}")


async def _stun(output: Output, text: str) -> int:
    ways = await find_server(text)
    seen, report = await facts(ways)
    await show_rows(output, seen, report)
    if not seen.reaches_server:
        raise Failure(f"{ways[0].server} does not answer over UDP.")
    return 0


async def _classic(output: Output, text: str) -> int:
    way = (await find_server(text))[0]
    learned = await ask_classic(*way)
    for ended in learned.tests:
        saw = "no answer" if ended.mapped is None else f"sees {ended.mapped}"
        if ended.source not in (None, ended.server):
            saw += f", answered from {ended.source}"
        output.result(
            "test",
            f"{'Test ' + ended.test.value:<14}{ended.server}, {TESTS[ended.test]}: {saw}",
            test=ended.test.value,
            server=str(ended.server),
            mapped=None if ended.mapped is None else str(ended.mapped),
            source=None if ended.source is None else str(ended.source),
        )
    if learned.verdict is None:
        raise Failure(f"No verdict: {learned.reason}.")
    output.result(
        "verdict", f"{'Verdict':<14}{learned.verdict.value}", verdict=learned.verdict.value
    )
    return 1 if learned.verdict is Verdict.UDP_BLOCKED else 0

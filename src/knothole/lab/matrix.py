"""Pairs of NATs, several runs each, as a table: direct, relayed, failed; how soon; how much."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement, groupby
from typing import Any, Final

from knothole.lab.netns.box import box_named
from knothole.lab.programs import Commands, KnotholeCommands, ProgramFailed
from knothole.lab.setting import Setting, Together
from knothole.lab.trial import Run, Trial, Verdict

Progress = Callable[[Run], None]


@dataclass(frozen=True, slots=True)
class Row:
    """What the runs of one pair came to. Seconds to the first payload, over all its runs.

    ``first_median`` and ``first_worst`` count for each run the end that got it later.
    """

    nats: tuple[str, str]
    runs: int
    direct: int
    relayed: int
    failed: int
    first_median: float | None
    first_worst: float | None
    direct_median: float | None
    packets_median: int


TEN_KINDS: Final = (
    "none",
    "firewall",
    "linux",
    "linux-collision",
    "range",
    "sequential",
    "random",
    "eim-apdf",
    "eim-eif",
    "carrier",
)
"""What people stand behind: 55 pairs."""

HEADINGS = (
    "NATs",
    "runs",
    "direct",
    "relayed",
    "failed",
    "first payload",
    "worst",
    "direct after",
    "packets",
)


def pairs_of(
    kinds: Sequence[str], others: Sequence[str] = (), setting: Setting | None = None
) -> list[tuple[str, str]]:
    """Every pair of ``kinds``, each with itself too, or each of ``kinds`` with each of ``others``.
    In a setting with one NAT each kind is a pair.

    Raises ValueError for a kind that is not known or has no room for two.
    """
    for kind in (*kinds, *others):
        box_named(kind)
    if setting is not None and setting.together is Together.CARRIER:
        carrier = setting.box(setting.carrier)
        if not carrier.kind.translates or carrier.kind.carrier:
            raise ValueError(f"{setting.carrier!r}: a carrier's NAT is one that translates")
    if setting is not None and setting.together is Together.NAT:
        for kind in kinds:
            if not box_named(kind).kind.translates:
                raise ValueError(f"{kind!r} has one address for one client, so no two share it")
        return [(kind, kind) for kind in kinds]
    if others:
        return [(one, other) for one in kinds for other in others]
    return list(combinations_with_replacement(kinds, 2))


def run_matrix(
    pairs: Iterable[tuple[str, str]],
    *,
    runs: int,
    setting: Setting | None = None,
    commands: Commands | None = None,
    progress: Progress | None = None,
    seed: int = 1,
) -> list[Run]:
    """Try each pair so many times; the two ends take turns in calling.

    Each pair has a lab and a server of its own. A pair whose lab cannot be brought up counts as
    so many failed runs. Raises NamespacesUnavailable.
    """
    done: list[Run] = []
    for number, pair in enumerate(pairs):
        for run in _runs_of(
            pair, runs, commands or KnotholeCommands(), setting or Setting(), seed + number
        ):
            done.append(run)
            if progress is not None:
                progress(run)
    return done


def _runs_of(
    pair: tuple[str, str], runs: int, commands: Commands, setting: Setting, seed: int
) -> Iterator[Run]:
    try:
        with Trial(pair, commands, setting, seed=seed) as trial:
            for number in range(runs):
                yield trial.run(reverse=bool(number % 2))
    except ProgramFailed as failed:
        for _ in range(runs):
            yield Run(*pair, Verdict.FAILED, error=str(failed))


def rows_of(runs: Iterable[Run]) -> list[Row]:
    """One row for each pair, in the order the pairs were tried; who called makes no difference."""
    rows = []
    for _, group in groupby(runs, key=lambda run: frozenset((run.caller_nat, run.callee_nat))):
        of_pair = list(group)
        first = [max(times) for run in of_pair if len(times := _first_times(run)) == 2]
        direct = [run.direct_after for run in of_pair if run.direct_after is not None]
        rows.append(
            Row(
                (of_pair[0].caller_nat, of_pair[0].callee_nat),
                len(of_pair),
                direct=_count(of_pair, Verdict.DIRECT),
                relayed=_count(of_pair, Verdict.RELAYED),
                failed=_count(of_pair, Verdict.FAILED),
                first_median=statistics.median(first) if first else None,
                first_worst=max(first, default=None),
                direct_median=statistics.median(direct) if direct else None,
                packets_median=round(statistics.median(run.packets for run in of_pair)),
            )
        )
    return rows


def to_markdown(runs: Sequence[Run]) -> str:
    """The table as Markdown, with what went wrong below it."""
    lines = [" | ".join(HEADINGS), "|".join("---" if n == 0 else "---:" for n in range(9))]
    lines += [" | ".join(_cells(row)) for row in rows_of(runs)]
    lines = [f"| {line} |" if "---" not in line else f"|{line}|" for line in lines]
    return "\n".join([*lines, "", summary(runs), *_complaints(runs)]) + "\n"


def to_text(runs: Sequence[Run]) -> str:
    """The table for a terminal."""
    table = [HEADINGS, *(_cells(row) for row in rows_of(runs))]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    lines = []
    for line in table:
        first, *others = (
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    lines.insert(1, "─" * len(lines[0]))
    return "\n".join([*lines, "", summary(runs), *_complaints(runs)]) + "\n"


def to_json(runs: Sequence[Run]) -> str:
    """Rows and single runs as one JSON object."""
    return json.dumps(
        {"rows": [asdict(row) for row in rows_of(runs)], "runs": [run_facts(run) for run in runs]},
        indent=1,
    )


def run_facts(run: Run) -> dict[str, Any]:
    """A run as plain values."""
    return {**asdict(run), "verdict": run.verdict.value}


def summary(runs: Sequence[Run]) -> str:
    """All runs in one line."""
    counts = {verdict: _count(runs, verdict) for verdict in Verdict}
    words = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    first = [max(times) for run in runs if len(times := _first_times(run)) == 2]
    direct = [run.direct_after for run in runs if run.direct_after is not None]
    sentences = [f"{len(runs)} runs: {words}."]
    for what, times in (("First payload at both ends", first), ("Direct", direct)):
        if times:
            middle, worst = _seconds(statistics.median(times)), _seconds(max(times))
            sentences.append(f"{what}: median {middle}, worst {worst}.")
    return " ".join(sentences)


def _count(runs: Sequence[Run], verdict: Verdict) -> int:
    return sum(run.verdict is verdict for run in runs)


def _first_times(run: Run) -> list[float]:
    return [time for time in (run.first_at_callee, run.first_at_caller) if time is not None]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        " - ".join(row.nats),
        *(str(count) for count in (row.runs, row.direct, row.relayed, row.failed)),
        _seconds(row.first_median),
        _seconds(row.first_worst),
        _seconds(row.direct_median),
        str(row.packets_median),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _complaints(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.caller_nat} calls {run.callee_nat}: {run.error}"
        for run in runs
        if run.verdict is Verdict.FAILED
    ]

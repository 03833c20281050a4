"""What the relay is to reach, and in which cells of the benchmark it does."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from knothole.lab.bench.relay_figures import (
    Cell,
    Estimate,
    Figures,
    added_latency,
    cost_ratio,
    most_ratio,
    per_core_ratio,
)
from knothole.lab.bench.relay_table import COTURN, DIRECT, FORWARDED, spread, title

ACCELERATOR, USER_SPACE = "accelerator", "user-space"


@dataclass(frozen=True, slots=True)
class Demand:
    """``figure`` of a way in each cell, singles or ``bursts``, is on the right side of ``limit``.

    ``figure`` is given the ways of ``needs`` in their order, the one in question first.
    """

    text: str
    needs: tuple[str, ...]
    figure: Callable[..., Estimate]
    holds: Callable[[float, float], bool]
    limit: float
    bursts: bool = False


DEMANDS: Final = (
    Demand(
        "accelerator, CPU of a datagram: at most 0.25 of coturn's",
        (ACCELERATOR, COTURN, DIRECT),
        cost_ratio,
        operator.le,
        0.25,
    ),
    Demand(
        "accelerator, CPU of a datagram: at most 2x plain forwarding",
        (ACCELERATOR, FORWARDED, DIRECT),
        cost_ratio,
        operator.le,
        2.0,
    ),
    Demand(
        "accelerator, median latency: at most 2 us more than forwarding",
        (ACCELERATOR, FORWARDED),
        added_latency,
        operator.le,
        2.0,
    ),
    Demand(
        "user space, datagrams per core: at least 0.85 of coturn's",
        (USER_SPACE, COTURN),
        per_core_ratio,
        operator.ge,
        0.85,
    ),
    Demand(
        "user space, bursts, datagrams per core: at least 2x coturn's",
        (USER_SPACE, COTURN),
        per_core_ratio,
        operator.ge,
        2.0,
        bursts=True,
    ),
)


def verdicts(figures: Sequence[Figures]) -> Iterator[str]:
    """A line for each demand: reached or not, and in which cells."""
    for demand in DEMANDS:
        yield f"{demand.text}: {_verdict(demand, figures)}"


def over_several(figures: Sequence[Figures]) -> Iterator[str]:
    """A block for each relay of several processes: what that gains, and who has done the work."""
    cells = _cells(figures)
    for name in dict.fromkeys(each.way for each in figures):
        alone = name.rstrip("0123456789").removesuffix("-")
        found = {cell: ways for cell, ways in cells.items() if ways.keys() >= {name, alone}}
        if name == alone or not found:
            continue
        yield f"{name} against {alone}: most/s, datagrams per core, who relayed how much"
        for cell, ways in found.items():
            way, one = ways[name], ways[alone]
            said = f"    {title(cell)}: {spread(most_ratio(way, one))}, "
            said += spread(per_core_ratio(way, one))
            if total := sum(way.handled.by_process):
                parts = " ".join(f"{each / total:.0%}" for each in way.handled.by_process)
                said += f", {parts}, {way.handled.astray} astray of {total}"
            yield said


def _verdict(demand: Demand, figures: Sequence[Figures]) -> str:
    found = [
        (cell, demand.figure(*(ways[name] for name in demand.needs)))
        for cell, ways in _cells(figures).items()
        if cell.bursts == demand.bursts and ways.keys() >= set(demand.needs)
    ]
    if not found:
        return "not measured"
    values = [figure.value for _, figure in found]
    missed = [
        (cell, figure) for cell, figure in found if not demand.holds(figure.value, demand.limit)
    ]
    where = f"in {len(found) - len(missed)} of {len(found)} cells"
    said = f"{'NOT ' if missed else ''}reached, {where} ({min(values):.2f} to {max(values):.2f})"
    parts = [said]
    parts += [f"    missed: {_tell(cell, figure, demand)}" for cell, figure in missed]
    parts += [
        f"    barely: {_tell(cell, figure, demand)}"
        for cell, figure in found
        if (cell, figure) not in missed and _is_close(figure, demand)
    ]
    return "\n".join(parts)


def _tell(cell: Cell, figure: Estimate, demand: Demand) -> str:
    doubt = ", within the noise" if _is_close(figure, demand) else ""
    return f"{title(cell)}: {spread(figure)}{doubt}"


def _is_close(figure: Estimate, demand: Demand) -> bool:
    """Whether the other side of the limit is within its bounds."""
    return demand.holds(figure.low, demand.limit) != demand.holds(figure.high, demand.limit)


def _cells(figures: Sequence[Figures]) -> dict[Cell, dict[str, Figures]]:
    cells: dict[Cell, dict[str, Figures]] = {}
    for each in figures:
        cells.setdefault(each.cell, {})[each.way] = each
    return cells

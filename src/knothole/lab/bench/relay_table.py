"""The relay benchmark's figures as a table: raw, and as ratios to coturn and to the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from knothole.lab.bench.relay_figures import (
    Cell,
    Estimate,
    Figures,
    added_cost,
    added_latency,
    cost_ratio,
    per_core_ratio,
)

DIRECT, FORWARDED, COTURN = "direct", "forwarded by the kernel", "coturn"
NOTHING_US: Final = 0.5  # ours: below that the relay's process has not relayed, the kernel has
HEAD: Final = (
    f"{'':24}{'most/s':>9}{'per core':>10}{'x':>19}{'server us':>11}{'all us':>8}{'x':>19}"
    f"{'x fwd':>21}{'p50 us':>8}{'+fwd':>20}"
)
_BLANK: Final = f"{'':19}"


def table(figures: Sequence[Figures]) -> str:
    """A block of lines for each cell, a line for each way."""
    lines = []
    for cell in dict.fromkeys(each.cell for each in figures):
        lines += ["", title(cell), HEAD]
        ways = {each.way: each for each in figures if each.cell == cell}
        lines += [_line(each, ways) for each in ways.values()]
    return "\n".join(lines)


def title(cell: Cell) -> str:
    many = "1 allocation" if cell.allocations == 1 else f"{cell.allocations} allocations"
    how = "bursts" if cell.bursts else "singles"
    return f"{many}, {cell.size} bytes {cell.direction}, {how}"


def spread(estimate: Estimate, digits: int = 2) -> str:
    """The value and its bounds, as short as they can be said."""
    if estimate.value > 99:
        return "-"
    high = f"{estimate.high:.{digits}f}" if estimate.high <= 99 else "?"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}-{high})"


def _line(each: Figures, ways: dict[str, Figures]) -> str:
    direct, forwarded, coturn = (ways.get(name) for name in (DIRECT, FORWARDED, COTURN))
    row = f"  {each.way:22}{each.per_second:9.0f}"
    if each.server_us > NOTHING_US:
        row += f"{each.per_core:10.0f}"
        row += f"{spread(per_core_ratio(each, coturn)):>19}" if coturn else _BLANK
        row += f"{each.server_us:11.2f}"
    else:
        row += f"{'':40}"
    if direct is None or each is direct:
        return f"{row}{each.all_us:8.2f}{'':40}{each.latency_us:8.1f}"
    row += f"{added_cost(each, direct).value:8.2f}"
    row += f"{spread(cost_ratio(each, coturn, direct)):>19}" if coturn else _BLANK
    row += f"{spread(cost_ratio(each, forwarded, direct)):>21}" if forwarded else ""
    row += f"{each.latency_us:8.1f}"
    row += f"{spread(added_latency(each, forwarded), 1):>20}" if forwarded else ""
    return row + (f"  lost {each.lost:.0%}" if each.lost > 0.005 else "")

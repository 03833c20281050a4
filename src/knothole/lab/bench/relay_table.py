"""The relay benchmark's figures as a table: raw, and as ratios to coturn and to the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from knothole.lab.bench.relay import Cell, Figures

NOTHING_US: Final = 0.5  # ours: below that the relay's process has not relayed, the kernel has
HEAD = (
    f"{'':24}{'most/s':>9}{'per core':>10}{'x':>6}{'server us':>11}{'all us':>8}{'x':>6}"
    f"{'x fwd':>7}{'p50 us':>8}{'+direct':>9}{'+fwd':>7}"
)


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


def _line(each: Figures, ways: dict[str, Figures]) -> str:
    direct, forwarded = ways["direct"], ways["forwarded by the kernel"]
    coturn = ways.get("coturn")
    coturn_per_core = coturn.per_core if coturn else None
    coturn_added = coturn.all_us - direct.all_us if coturn else None
    added = each.all_us - direct.all_us
    row = f"  {each.way:22}{each.per_second:9.0f}"
    if each.server_us > NOTHING_US:
        row += f"{each.per_core:10.0f}{_ratio(each.per_core, coturn_per_core)}"
        row += f"{each.server_us:11.2f}"
    else:
        row += f"{'':27}"
    if each is direct:
        return f"{row}{each.all_us:8.2f}{'':13}{each.latency_us:8.1f}"
    row += f"{added:8.2f}{_ratio(added, coturn_added)}"
    row += f" {_ratio(added, forwarded.all_us - direct.all_us)}"
    row += f"{each.latency_us:8.1f}{each.latency_us - direct.latency_us:9.1f}"
    row += f"{each.latency_us - forwarded.latency_us:7.1f}"
    return row + (f"  lost {each.lost:.0%}" if each.lost > 0.005 else "")


def _ratio(value: float, reference: float | None) -> str:
    return f"{value / reference:6.2f}" if reference and reference > 0 else f"{'':6}"

"""Measured curves over theoretical ones, with their intervals, as one SVG picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH, HEIGHT, MARGIN, COLUMNS = 420, 260, 52, 2
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#222}.t{font-weight:bold}.g{stroke:#ddd}.w{fill:#dbe6f4}"
    ".p{fill:#a9c4e4}.th{fill:none;stroke:#1f5fa8;stroke-width:1.5}"
    ".m{fill:none;stroke:#c0392b;stroke-width:1.5}"
)


@dataclass(frozen=True, slots=True)
class Curve:
    """Shares by number of probes, the first for one probe. ``band`` is how far a measured curve
    stays from the theory with 95 %."""

    name: str
    runs: int
    theory: tuple[float, ...]
    measured: tuple[float, ...]
    band: float

    @property
    def farthest(self) -> float:
        """The largest distance between both."""
        return max(abs(a - b) for a, b in zip(self.theory, self.measured, strict=True))

    @property
    def inside(self) -> bool:
        return self.farthest <= self.band


def draw_curves(curves: Sequence[Curve]) -> str:
    """One panel for each curve: theory blue with both intervals, measured red."""
    rows = math.ceil(len(curves) / COLUMNS)
    width, height = COLUMNS * (WIDTH + MARGIN) + MARGIN, rows * (HEIGHT + 2 * MARGIN) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><style>{_STYLE}</style>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, curve in enumerate(curves):
        x = MARGIN + number % COLUMNS * (WIDTH + MARGIN)
        y = MARGIN + number // COLUMNS * (HEIGHT + 2 * MARGIN)
        parts.append(f'<g transform="translate({x},{y})">{"".join(_panel(curve))}</g>')
    legend = (
        "red: measured; blue: theory; dark: 95 % at each number of probes; "
        "light: 95 % for the whole curve"
    )
    parts.append(f'<text x="{MARGIN}" y="{height - 10}">{legend}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(curve: Curve) -> Iterable[str]:
    theory, measured = ([0.0, *values] for values in (curve.theory, curve.measured))
    most = len(curve.theory)
    root = math.sqrt(curve.runs)
    point = [1.96 * math.sqrt(max(0.0, share * (1 - share))) / root for share in theory]
    yield f'<text class="t" x="0" y="-10">{escape(curve.name)} ({curve.runs} runs)</text>'
    for tenth in range(0, 11, 2):
        y = HEIGHT * (1 - tenth / 10)
        yield f'<line class="g" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{tenth * 10} %</text>'
    for quarter in range(5):
        x, probes = WIDTH * quarter / 4, round(most * quarter / 4)
        yield f'<text x="{x:.0f}" y="{HEIGHT + 18}" text-anchor="middle">{probes}</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT + 36}" text-anchor="middle">probes</text>'
    yield _area("w", theory, [curve.band] * len(theory))
    yield _area("p", theory, point)
    yield f'<polyline class="th" points="{_points(theory)}"/>'
    yield f'<polyline class="m" points="{_points(measured)}"/>'


def _points(shares: Sequence[float]) -> str:
    step = WIDTH / max(1, len(shares) - 1)
    return " ".join(
        f"{n * step:.1f},{HEIGHT * (1 - min(1.0, max(0.0, share))):.1f}"
        for n, share in enumerate(shares)
    )


def _area(name: str, middle: Sequence[float], spread: Sequence[float]) -> str:
    above = _points([share + s for share, s in zip(middle, spread, strict=True)])
    below = _points([share - s for share, s in zip(middle, spread, strict=True)])
    back = " ".join(reversed(below.split(" ")))
    return f'<polygon class="{name}" points="{above} {back}"/>'

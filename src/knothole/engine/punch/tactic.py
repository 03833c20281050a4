"""The contract of tactics: each carries out one side of one kind of plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from knothole.engine.punch.means import Sample
from knothole.wire.address import Address
from knothole.wire.signal.plans import Move


class Tactic(Protocol):
    """What an attempt tells its tactic; what that does goes out through its means."""

    def start(self, now: float) -> None: ...
    def opened(self, bases: Sequence[Address], now: float) -> None: ...
    def sampled(self, sample: Sample, now: float) -> None: ...
    def heard(self, move: Move, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def next_timeout(self) -> float | None: ...

"""What the clients of one gateway tell the mapper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.core import Transmit


@dataclass(frozen=True, slots=True)
class Changed:
    """The client's mapping or progress is another than before."""


@dataclass(frozen=True, slots=True)
class GatewayAged:
    """An answer that can be trusted says how old the gateway is."""

    epoch_seconds: int


ClientOutput: TypeAlias = Transmit | Changed | GatewayAged

"""The words by which two ends agree on a moment for a simultaneous open (docs/protocol/tcp.md)."""

from __future__ import annotations

import enum
from typing import Annotated, Final

from msgspec import Meta, Struct

from knothole.wire.signal.values import CandidateLine

MAX_AIMS: Final = 4
"""Ours: so many ports one end may be tried at in one round."""

MAX_HELD_MS: Final = 10_000


class TcpStep(enum.Enum):
    """ASK, READY, GO: three words make a round."""

    ASK = "ask"
    READY = "ready"
    GO = "go"


class TcpWord(Struct, frozen=True, omit_defaults=True):
    """One word of round ``round``. ``aims`` are candidate lines (RFC 6544, tcptype so): where the
    end that says it will be seen connecting from, the most likely one first. ``held_ms`` is how
    long the answer to ASK took to be made."""

    step: TcpStep
    round: Annotated[int, Meta(ge=1, le=255)]
    aims: Annotated[tuple[CandidateLine, ...], Meta(max_length=MAX_AIMS)] = ()
    held_ms: Annotated[int, Meta(ge=0, le=MAX_HELD_MS)] = 0

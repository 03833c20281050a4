"""What one client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass

from knothole.engine.rate import Rate


@dataclass(frozen=True, slots=True)
class Limits:
    """Ours throughout: far above what a client needs, far below what would hurt the others.

    ``early`` is in bytes for each call and direction; ``new_names`` counts names that one host
    (an IPv4 address, an IPv6 /64) creates; ``messages``, ``message_bytes``, ``calls`` and
    ``lookups`` are for each connection.
    """

    messages: Rate = Rate(400, 100)
    message_bytes: Rate = Rate(1 << 20, 256 << 10)
    calls: Rate = Rate(60, 5)
    lookups: Rate = Rate(400, 10)
    early: Rate = Rate(64 << 10, 16 << 10)
    new_names: Rate = Rate(100, 100 / 3600)
    sessions: int = 100_000
    devices_per_name: int = 16
    watched_names: int = 1024
    unanswered_calls_per_caller: int = 32
    unanswered_calls_per_pair: int = 16
    ringing_calls_per_callee: int = 64
    calls_per_caller: int = 1024
    malformed_messages: int = 20
    dropped_messages: int = 1000

"""Which port the next mapping gets, from what is known of a NAT (RFC 5128 Section 3.5)."""

from __future__ import annotations

LAST_PORT = 65535


def ports_between(before: int, after: int, stride: int, limit: int) -> tuple[int, ...]:
    """The ports that a NAT gave after ``before`` and before ``after``, at most ``limit``.

    Those a stride apart where that fits, otherwise every port between. Nothing when they are too
    many, when none lies between, or when the NAT began its round anew meanwhile.
    """
    span = after - before
    step = stride if span * stride > 0 and span % stride == 0 else (1 if span > 0 else -1)
    between = range(before + step, after, step)
    if span * stride < 0 or not 0 < len(between) <= limit:
        return ()
    return tuple(between)


def ports_after(latest: int, stride: int, skipped: int, count: int) -> tuple[int, ...]:
    """``count`` ports that follow ``latest`` when ``skipped`` in between go to others."""
    ports = (latest + stride * (skipped + step) for step in range(1, count + 1))
    return tuple(port for port in ports if 1 <= port <= LAST_PORT)

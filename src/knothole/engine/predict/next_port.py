"""Which port the next mapping gets, from what is known of a NAT (RFC 5128 Section 3.4)."""

from __future__ import annotations

from knothole.wire.nat import Modular, Offset, PortAssignment, Preserved

LAST_PORT = 65535


def mapped_port(assignment: PortAssignment | None, inside: int) -> int | None:
    """The port outside that the port ``inside`` gets by arithmetic, also if it was never seen.

    None where the NAT does not compute it, or where it would be no port.
    """
    match assignment:
        case Preserved():
            port = inside
        case Offset(offset):
            port = inside + offset
        case Modular(first, size):
            port = first + inside % size
        case _:
            return None
    return port if 1 <= port <= LAST_PORT else None


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

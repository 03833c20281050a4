"""How many sockets this process may have open: as many as the system lets it."""

from __future__ import annotations

import errno
from typing import Final

RESERVE: Final = 128  # ours: for listening, accounts and whatever libraries open
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_limit(most: int) -> int:
    """Have the soft limit raised as far as it goes; how many connections fit, at most ``most``."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + RESERVE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        highest = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            soft = highest
        except (OSError, ValueError):
            pass
    if soft == resource.RLIM_INFINITY:
        return most
    return max(min(most, soft - RESERVE), RESERVE)


def too_few(allocations: int, processes: int) -> str | None:
    """What to tell an operator whose relay ``processes`` cannot have so many ``allocations`` open,
    in words; None when they can."""
    try:
        import resource
    except ImportError:
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    room = max(hard - RESERVE, RESERVE) * processes
    if hard == resource.RLIM_INFINITY or room >= allocations:
        return None
    least = -(-allocations // processes) + RESERVE
    return (
        f"room for {room} of {allocations} allocations: the system lets a process open {hard} "
        f"files; raise that to {least} (LimitNOFILE of systemd, `ulimit -Hn`), or have more relay "
        "processes"
    )

"""Waiting for sockets without an event loop."""

from __future__ import annotations

import socket
import time

from knothole.io.waiting import readable


def test_what_can_be_read_is_told_until_the_time_is_over_and_not_after() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert readable([one, other], time.monotonic() + 0.001) == []
        other.send(b"there is always more")
        assert readable([one, other], time.monotonic() + 60.0) == [one]
        assert readable([one.fileno()], time.monotonic() + 60.0) == [one.fileno()]
        assert readable([one, other], time.monotonic()) == []

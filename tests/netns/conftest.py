"""Labs for the tests: real namespaces, so Linux and root (or a user namespace) are needed."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from typing import Final

import pytest

PATIENCE: Final = 40.0  # seconds after which what should have come has not, on a busy machine too

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]
else:
    from knothole.lab.netns.namespace import NamespacesUnavailable, make_namespaces_possible
    from knothole.lab.netns.topology import Lab

    @pytest.fixture(autouse=True, scope="session")
    def _namespaces_or_skip() -> None:
        try:
            make_namespaces_possible()
        except NamespacesUnavailable as refused:
            pytest.skip(str(refused))

    @pytest.fixture
    def lab() -> Iterator[Lab]:
        with Lab() as built:
            yield built

    def discarded(lab: Lab, name: str, least: int) -> int:
        """How many packets the router has discarded, so many at least being waited for.

        What one sender sends in a row may come through two processors, and the last of it first.
        """
        deadline = time.monotonic() + PATIENCE
        while (count := lab.discarded(name).packets) < least:
            assert time.monotonic() < deadline, f"{count} of {least}"
        return count

    @pytest.fixture
    def udp(lab: Lab) -> Iterator[UdpSockets]:
        sockets = UdpSockets(lab)
        yield sockets
        sockets.close()

    class UdpSockets:
        """UDP sockets inside the hosts of a lab, closed after the test."""

        def __init__(self, lab: Lab) -> None:
            self._lab = lab
            self._open: list[socket.socket] = []

        def __call__(self, host: str, port: int = 0, address: str = "") -> socket.socket:
            with self._lab.inside(host):
                new = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            new.settimeout(PATIENCE)
            new.bind((address or self._lab.hosts[host].address, port))
            self._open.append(new)
            return new

        def close(self) -> None:
            for each in self._open:
                each.close()

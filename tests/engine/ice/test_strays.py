"""Checks outside of the checklist, as plans send them."""

from __future__ import annotations

from knothole.engine.core import Datagram
from knothole.engine.ice.candidates import STRAY_LIMIT, RemoteCandidates
from knothole.engine.ice.credentials import IceCredentials
from knothole.engine.ice.stray import STRAY_PRIORITY, is_check_for, stray_check
from knothole.wire.address import Address
from knothole.wire.stun import IceControlling

OURS = IceCredentials("ours", "o" * 22)
THEIRS = IceCredentials("them", "t" * 22)
HERE, THERE = Address("10.0.0.1", 1), Address("1.1.1.1", 2)


def test_a_scan_that_comes_in_leaves_room_for_other_checks() -> None:
    remotes = RemoteCandidates(40, 16, lambda _: False)
    found = [
        remotes.discover(Address("1.1.1.1", port), STRAY_PRIORITY, now=1.0)
        for port in range(1000, 1200)
    ]
    assert sum(candidate is not None for candidate in found) == STRAY_LIMIT
    assert remotes.discover(Address("1.1.1.1", 5000), STRAY_PRIORITY + 256, now=1.0) is not None


def test_only_who_knows_the_password_makes_a_check() -> None:
    check = stray_check(THEIRS, OURS, IceControlling(1), STRAY_PRIORITY, bytes(12))
    assert is_check_for(Datagram(THERE, HERE, check), OURS)
    guessed = stray_check(
        THEIRS, IceCredentials("ours", "x" * 22), IceControlling(1), STRAY_PRIORITY, bytes(12)
    )
    assert not is_check_for(Datagram(THERE, HERE, guessed), OURS)
    assert not is_check_for(Datagram(THERE, HERE, b"\x00\x01junk"), OURS)
    assert not is_check_for(Datagram(THERE, HERE, check), THEIRS)


def test_the_priority_that_tells_a_probe_is_the_documented_one() -> None:
    assert STRAY_PRIORITY == 1845494015  # docs/protocol/plans.md Section 2

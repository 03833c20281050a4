"""How many sockets fit: soft limits are raised, hard ones are told of."""

from __future__ import annotations

import sys

import pytest

from knothole.server.descriptors import RESERVE, raise_limit, too_few

if sys.platform == "win32":
    pytest.skip("Windows has no such limit", allow_module_level=True)

import resource

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch):
    """Sets soft and hard limit of this test; what was asked of the system is in the list."""
    asked = []

    def set_(soft: int, hard: int) -> list[tuple[int, int]]:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: asked.append(wanted))
        return asked

    return set_


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "room"),
    [
        (1024, 20_000, [(20_000, 20_000)], 20_000 - RESERVE),
        (1024, 1_000_000, [(50_000 + RESERVE, 1_000_000)], 50_000),
        (1024, UNLIMITED, [(50_000 + RESERVE, UNLIMITED)], 50_000),
        (60_000, 60_000, [], 50_000),
        (UNLIMITED, UNLIMITED, [], 50_000),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_is_of_use(limits, soft, hard, asked, room) -> None:
    found = limits(soft, hard)
    assert raise_limit(50_000) == room
    assert found == asked


def test_an_operator_hears_that_there_is_no_room_for_all_allocations(limits) -> None:
    limits(1024, 20_000)
    assert too_few(19_872, 1) is None
    words = too_few(20_000, 1)
    assert words is not None
    assert words.startswith("room for 19872 of 20000 allocations: the system lets a process open ")
    assert "raise that to 20128 (" in words
    assert too_few(20_000, 2) is None
    assert "raise that to 25128 (" in str(too_few(50_000, 2))


def test_where_there_is_no_limit_there_is_room(limits) -> None:
    limits(1024, UNLIMITED)
    assert too_few(10**9, 1) is None

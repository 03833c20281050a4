"""Several relay processes under one order, with stand-ins for them."""

from __future__ import annotations

import sys

import pytest

from knothole.server import relay_group
from knothole.server.link import Answer, Change, Commit, Done, Drain, Order, Prepare, RelaySettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")

SETTINGS = RelaySettings(
    secrets=["a secret"],
    revoked=[],
    allow_peers=[],
    deny_peers=[],
    allocations=9,
    allocations_per_user=9,
    chain="/a.pem",
    key="/a.key",
)


class Member:
    """Writes down what it is asked, and refuses or is late where it is told to."""

    all: list[Member]

    def __init__(self, _tell: object) -> None:
        self.asked: list[Order] = []
        self.refuses: type | None = None
        self.is_late_with: type | None = None
        Member.all.append(self)

    async def ask(self, order: Order, _seconds: float) -> list[Answer]:
        self.asked.append(order)
        if type(order) is self.is_late_with:
            raise TimeoutError
        return [Done("it cannot be" if type(order) is self.refuses else "")]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> relay_group.RelayGroup:
    Member.all = []
    monkeypatch.setattr(relay_group, "ProcessRelay", Member)
    return relay_group.RelayGroup(lambda *_: None, 3)


def kinds() -> list[list[type]]:
    return [[type(order) for order in member.asked] for member in Member.all]


async def test_settings_are_prepared_by_all_before_any_has_them(group) -> None:
    assert await group.ask(Change(SETTINGS), 1.0) == [Done()] * 3
    assert kinds() == [[Prepare, Commit]] * 3
    assert {member.asked[0].settings.shares for member in Member.all} == {3}


@pytest.mark.parametrize("number", range(3))
async def test_what_one_of_them_refuses_none_has(group, number: int) -> None:
    Member.all[number].refuses = Prepare
    answers = await group.ask(Change(SETTINGS), 1.0)
    assert sorted(each.refused for each in answers) == ["", "", "it cannot be"]
    assert kinds() == [[Prepare]] * 3


async def test_what_one_of_them_does_not_answer_to_none_has(group) -> None:
    Member.all[1].is_late_with = Prepare
    with pytest.raises(TimeoutError):
        await group.ask(Change(SETTINGS), 1.0)
    assert kinds() == [[Prepare]] * 3


async def test_who_is_late_with_what_is_prepared_has_it_all_the_same(group) -> None:
    Member.all[1].is_late_with = Commit
    assert await group.ask(Change(SETTINGS), 1.0) == [Done()] * 2
    assert kinds() == [[Prepare, Commit]] * 3


async def test_other_orders_go_to_all_of_them(group) -> None:
    assert await group.ask(Drain(True), 1.0) == [Done()] * 3
    assert kinds() == [[Drain]] * 3

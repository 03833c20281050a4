"""Budgets as people write them."""

from __future__ import annotations

import pytest

from knothole.engine.predict.budget import Budget
from knothole.peer.budget import ENVIRONMENT, OFF, budget_of, parse_budget
from knothole.peer.errors import ProfileError


def test_what_is_not_named_is_as_by_default() -> None:
    assert parse_budget("") == Budget()
    wanted = parse_budget("probes=500, sockets=64,seconds=2.5")
    assert wanted == Budget(probes=500, sockets=64, seconds=2.5)
    assert parse_budget("off") == OFF


@pytest.mark.parametrize("text", ["probe=5", "probes", "probes=-1", "probes=many", "seconds=-1"])
def test_what_cannot_be_meant_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"budget has|is not"):
        parse_budget(text)


def test_the_environment_counts_where_nothing_else_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "probes=7")
    assert budget_of(None).probes == 7
    assert budget_of("probes=8").probes == 8
    assert budget_of(Budget(probes=9)).probes == 9
    monkeypatch.setenv(ENVIRONMENT, "nonsense")
    with pytest.raises(ProfileError, match="KNOTHOLE_BUDGET"):
        budget_of(None)

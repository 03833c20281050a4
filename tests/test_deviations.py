"""docs/deviations.md and docs/hardening.md name a test for every row, and the test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| from |")
]


def names_in(folder: Path) -> set[str]:
    return {
        name
        for path in folder.rglob("test_*.py")
        for name in re.findall(
            r"^ *(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.M
        )
    }


TESTS = names_in(ROOT / "tests")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_deviation_has_a_reason_and_a_test_that_exists(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 4, "from, what we do, why, test"
    assert all(cells)
    named = re.findall(r"`(test_\w+)`", cells[3])
    assert named, "no test is named"
    assert set(named) <= TESTS, f"no such test: {set(named) - TESTS}"


def test_every_attack_on_the_server_is_listed_and_every_one_listed_is_made() -> None:
    page = (ROOT / "docs" / "hardening.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    assert sorted(named) == sorted(set(named)), "a test is named twice"
    assert set(named) <= TESTS, f"no such test: {set(named) - TESTS}"
    attacks = names_in(ROOT / "tests" / "server" / "hardening")
    assert attacks <= set(named), f"not listed: {attacks - set(named)}"

"""What docs/lab.md shows works, and its table names every kind there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from knothole.lab.netns.nat import kind_names

PAGE = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")


@pytest.mark.netns
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/lab.md", "exec"), {})
    assert "{" in capsys.readouterr().out


def test_every_kind_of_nat_is_explained() -> None:
    table = re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE)
    assert tuple(table) == kind_names()

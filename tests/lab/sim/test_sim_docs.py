"""What docs/lab-simulator.md shows is what happens."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from pathlib import Path

from knothole.lab.sim import Dependence, FilterScope
from knothole.lab.sim.oracle import Traits, connects_by_rule

PAGE = (Path(__file__).parents[3] / "docs" / "lab-simulator.md").read_text()
SHORT = dict(zip(Dependence, ("EI", "AD", "APD"), strict=True))


def block(language: str, beginning: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (text,) = (each for each in found if beginning in each)
    return text


def test_the_example_prints_the_trace_that_is_shown() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block("python", "World(seed=1)"), {})
    assert printed.getvalue() == block("text", "alice        send")


def test_the_table_of_pairs_is_what_the_oracle_says() -> None:
    kinds = list(itertools.product(Dependence, Dependence))
    names = ["/".join(SHORT[each] for each in kind) for kind in kinds]
    expected = [names]
    for name, one in zip(names, kinds, strict=True):
        row = [name]
        for other in kinds:
            per_endpoint, per_mapping = (
                connects_by_rule(Traits(*one, scope), Traits(*other, scope))
                for scope in FilterScope
            )
            row.append("x" if per_mapping else "e" if per_endpoint else ".")
        expected.append(row)
    assert [line.split() for line in block("text", "EI/EI").splitlines()] == expected

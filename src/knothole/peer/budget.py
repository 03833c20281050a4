"""What looking for a direct path may use, as people write it: "probes=500,sockets=64", or "off"."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Final

from knothole.engine.predict.budget import Budget
from knothole.peer.errors import ProfileError

ENVIRONMENT: Final = "KNOTHOLE_BUDGET"
OFF: Final = Budget(probes=0, sockets=0)


def parse_budget(text: str) -> Budget:
    """The budget of ``text``: NAME=NUMBER with commas, what is not named as by default.

    Names are probes, sockets, per_second, seconds and outstanding; "off" is none at all. Raises
    ValueError with a line for people.
    """
    if text.strip() == "off":
        return OFF
    names = [field.name for field in fields(Budget)]
    budget = Budget()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        if name not in names:
            raise ValueError(f"a budget has {', '.join(names)}, or is off, not {name!r}")
        try:
            if name == "seconds":
                budget = replace(budget, seconds=float(number))
            else:
                budget = replace(budget, **{name: int(number)})
        except ValueError as error:
            raise ValueError(f"{part!r} is not {name}=NUMBER with a number from 0") from error
    return budget


def budget_of(wanted: Budget | str | None) -> Budget:
    """What is wanted, else what the environment says, else the default.

    Raises ValueError for ``wanted``, ProfileError for the environment.
    """
    if isinstance(wanted, Budget):
        return wanted
    if wanted is not None:
        return parse_budget(wanted)
    try:
        return parse_budget(os.environ.get(ENVIRONMENT, ""))
    except ValueError as error:
        raise ProfileError(f"{ENVIRONMENT} in the environment: {error}.") from error

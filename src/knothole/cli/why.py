"""``knothole why``"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from cyclopts import Parameter

from knothole.cli.output import Failure, Output
from knothole.engine.endpoint.history import PoolKnown
from knothole.peer.errors import KnotholeError
from knothole.peer.explanation import Explanation, explain
from knothole.peer.history_words import pools_in_words
from knothole.peer.last_lines import KeptLine
from knothole.peer.profile import Profile


def why(
    name: Annotated[str, Parameter(help="With whom the line is or was")],
    /,
    *,
    json: bool = False,
) -> int:
    """Tell why a line to NAME is relayed or direct, and what was tried.

    Of the line that goes on, in whatever program of yours, else of the last one: the plan and its
    reason, what was tried with counts, what answered, why it is relayed, and what would make it
    direct.

    Example: knothole why bob

    Parameters
    ----------
    json
        One JSON object.
    """
    output = Output(json=json)
    try:
        profile = Profile.load()
    except KnotholeError as error:
        raise Failure(str(error)) from error
    kept = profile.last_lines.of(name.strip().lower())
    if kept is None:
        raise Failure(
            f"No line with {name!r} is on record here. One is made by: knothole ping {name}"
        )
    _tell(output, kept, explain(kept.history))
    return 0


def _pool_facts(pool: PoolKnown) -> dict[str, object]:
    whose = "ours" if pool.ours else "theirs"
    return {"whose": whose, "first": pool.first, "last": pool.last, "after_probes": pool.probes}


def _tell(output: Output, kept: KeptLine, told: Explanation) -> None:
    history = kept.history
    facts = {
        "peer": history.name,
        "app": history.app,
        "incoming": history.incoming,
        "goes_on": kept.goes_on,
        "began": round(kept.began, 3),
        "path": told.path,
        "cause": told.cause,
        "why": told.because,
        "plan": told.plan,
        "plan_reason": told.plan_reason,
        "odds": told.odds,
        "pools": [_pool_facts(pool) for pool in told.pools],
        "tried": list(told.tried),
        "better": list(told.better),
        "history": msgspec.to_builtins(history),
    }
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.began))
    state = "goes on" if kept.goes_on else "is over"
    what = history.app or "line"
    by = "they called" if history.incoming else "you called"
    output.result(
        "why", f"{history.name}: the {what} of {when} ({by}) {state}; {told.summary}.", **facts
    )
    if output.json:
        return
    if pools := pools_in_words(history):
        output.result("why", f"Ports taken for random ones: {pools}.")
    for heading, lines in (("Tried", told.tried), ("What would make it direct", told.better)):
        if lines:
            output.result("why", f"{heading}:")
            for line in lines:
                output.result("why", f"  {line}")

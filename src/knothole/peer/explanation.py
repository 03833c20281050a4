"""Why a line travels the way it does, in plain words, from what its history holds."""

from __future__ import annotations

import enum
from typing import Final, TypeVar

from msgspec import Struct

from knothole.engine.endpoint.history import (
    CallHistory,
    FactsKnown,
    GaveUp,
    PathUsed,
    PlanChosen,
    PoolKnown,
    RelayOnly,
)
from knothole.peer.history_words import (
    hole_in_words,
    pools_in_words,
    relay_in_words,
    tried_in_words,
)
from knothole.wire.nat import Dependence, NatReport

SOON_SECONDS: Final = 3.0
"""Ours: a line that is younger and relayed is still being worked at."""

CASCADE: Final = 2  # NATs in a row from which on a mapping at the nearest one helps nobody

StepT = TypeVar("StepT")


class Cause(enum.Enum):
    """Why a line is relayed; the values are for programs and stay."""

    ASKED_HERE = "asked-here"
    ASKED_THERE = "asked-there"
    NO_UDP_HERE = "no-udp-here"
    NO_UDP_THERE = "no-udp-there"
    NO_ADDRESS_THERE = "no-address-there"
    PLAN = "plan"
    BOTH_NATS = "both-nats"
    ONE_NAT = "one-nat"
    WAS_DIRECT = "was-direct"
    SILENCE = "silence"
    STILL_TRYING = "still-trying"


class Explanation(Struct, frozen=True):
    """What :meth:`knothole.Line.explain` gives.

    Attributes:
        path: "direct", "relayed", or "none" when payload never had a path.
        summary: one line: the path, and why when it is relayed.
        cause: a name for the reason, None when the path is direct; see docs/cli.md.
        because: why it is relayed, "" when it is not.
        better: what would make it direct, the most promising first.
        plan: the plan that was chosen, "" when none was told; plan_reason: why it.
        odds: of the plan, 0 to 1, None when they were not told.
        pools: which ports were taken for the random ones of a NAT, as it became known.
        tried: what was tried and what came of it, one line each.
        history: everything that is known.
    """

    path: str
    summary: str
    cause: str | None
    because: str
    better: tuple[str, ...]
    plan: str
    plan_reason: str
    odds: float | None
    pools: tuple[PoolKnown, ...]
    tried: tuple[str, ...]
    history: CallHistory


def explain(history: CallHistory) -> Explanation:
    """Make words of a history."""
    used = _last(history, PathUsed)
    plan = _last(history, PlanChosen)
    cause: Cause | None = None
    because, better = "", tuple[str, ...]()
    if used is None:
        path, way = "none", "there was no path"
        if history.checks:
            cause, because, better = _why_relayed(history, plan)
    elif used.relayed:
        path, way = "relayed", relay_in_words(used, history.name)
        cause, because, better = _why_relayed(history, plan)
    else:
        path, way = "direct", hole_in_words(used)
    return Explanation(
        path=path,
        summary=f"{way}: {because}" if because else way,
        cause=None if cause is None else cause.value,
        because=because,
        better=tuple(dict.fromkeys(better)),
        plan="" if plan is None else plan.plan,
        plan_reason="" if plan is None else plan.reason,
        odds=None if plan is None else plan.odds,
        pools=tuple(n.step for n in history.steps if isinstance(n.step, PoolKnown)),
        tried=tuple(tried_in_words(history)),
        history=history,
    )


# ---------------------------------------------------------------------------- the reason


def _why_relayed(
    history: CallHistory, plan: PlanChosen | None
) -> tuple[Cause, str, tuple[str, ...]]:
    """The first of the reasons that explains it: what was asked for, then what cannot be, then what
    was tried in vain."""
    name = history.name
    facts = _last(history, FactsKnown) or FactsKnown()
    asked = [noted.step for noted in history.steps if isinstance(noted.step, RelayOnly)]
    if any(step.ours for step in asked):
        text = "no direct path is wanted here (--relay-only, or the policy for this contact)"
        return (
            Cause.ASKED_HERE,
            text,
            (f"no --relay-only, and: knothole contacts --policy {name} default",),
        )
    gave_up = _last(history, GaveUp)
    also = "" if gave_up is None else f"; {gave_up.reason}"
    if asked:
        return Cause.ASKED_THERE, f"{name} wants no direct path", ()
    if facts.ours is not None and not facts.ours.udp:
        text = "UDP does not get out of the network here: no server answered over it"
        return (
            Cause.NO_UDP_HERE,
            text + also,
            ("let UDP out of the firewall here, port 3478 of the server at least",),
        )
    if facts.theirs is not None and not facts.theirs.udp:
        text = f"UDP does not get out of {name}'s network"
        return Cause.NO_UDP_THERE, text + also, (f"let UDP out of the firewall at {name}'s",)
    if history.theirs and all(count.kind == "relay" for count in history.theirs):
        text = f"{name} has told no address but its relay's: UDP is blocked there, or not wanted"
        return Cause.NO_ADDRESS_THERE, text, ()
    direct = [n for n in history.steps if isinstance(n.step, PathUsed) and not n.step.relayed]
    if direct:
        since = direct[-1].at_seconds
        text = (
            f"it was direct at first ({since:.1f} s after the beginning), and that path fell silent"
        )
        return (
            Cause.WAS_DIRECT,
            text,
            ("nothing: it goes back by itself as soon as a direct path answers",),
        )
    if not history.over and history.age_seconds < SOON_SECONDS and gave_up is None:
        return Cause.STILL_TRYING, "a direct path is still being tried", ()
    if plan is not None and (gave_up is not None or plan.odds == 0 or plan.plan == "relay"):
        text = plan.reason + (f" (odds {plan.odds:.0%})" if plan.odds is not None else "")
        if plan.plan != "relay":
            pools = pools_in_words(history)
            text += f"; tried: {pools}" + also if pools else also
        return Cause.PLAN, text, (plan.better,) if plan.better else _better(facts, name)
    return _from_nats(history, facts)


def _from_nats(history: CallHistory, facts: FactsKnown) -> tuple[Cause, str, tuple[str, ...]]:
    """What both ends' NATs say of it, where no plan has said it."""
    name = history.name
    here, there = _is_hard(facts.ours), _is_hard(facts.theirs)
    better = _better(facts, name)
    checks = _checks_in_words(history)
    if here and there:
        text = f"both NATs give every connection another port, which cannot be told ({checks})"
        return Cause.BOTH_NATS, text, better
    if here or there:
        whose = "the NAT here" if here else f"{name}'s NAT"
        text = f"{whose} gives every connection another port, unknown to the other end ({checks})"
        return Cause.ONE_NAT, text, better
    return Cause.SILENCE, f"{checks}: a firewall or NAT on the way lets none through", better


def _is_hard(report: NatReport | None) -> bool:
    easy = (None, Dependence.ENDPOINT_INDEPENDENT)
    return report is not None and report.mapping not in easy


def _better(facts: FactsKnown, name: str) -> tuple[str, ...]:
    """What would make a direct path, in the order of what is least trouble."""
    wishes: list[str] = []
    for report, where in ((facts.ours, "here"), (facts.theirs, f"at {name}'s")):
        if report is None or report.translated is not False:
            if report is not None and (report.levels or 1) >= CASCADE:
                wishes.append(f"a public address {where}: {report.levels} NATs are in a row there")
            else:
                wishes.append(f"UPnP, NAT-PMP or PCP enabled on the router {where}")
    wishes.append("IPv6 at both ends")
    return tuple(wishes)


def _checks_in_words(history: CallHistory) -> str:
    direct = [count for count in history.checks if "relay" not in (count.local, count.remote)]
    sent, answered = (
        sum(each) for each in ([c.sent for c in direct], [c.answered for c in direct])
    )
    return f"{sent} direct checks, {answered or 'none'} answered"


def _last(history: CallHistory, kind: type[StepT]) -> StepT | None:
    return next((n.step for n in reversed(history.steps) if isinstance(n.step, kind)), None)

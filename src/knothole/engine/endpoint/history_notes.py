"""The history of a call as a value, and what it learns from the call's own outputs."""

from __future__ import annotations

from knothole.engine.connection import PathInfo
from knothole.engine.endpoint.call import Call
from knothole.engine.endpoint.call_outputs import CallOutput
from knothole.engine.endpoint.events import CallOver, LinePath
from knothole.engine.endpoint.history import CallHistory, Ended, History, PathUsed


def note_output(history: History, output: CallOutput, now: float) -> None:
    """Note ``output`` if it says where payload goes, or that the call is over."""
    match output:
        case LinePath(_, path):
            history.note(_path_used(path), now)
        case CallOver(_, _, text):
            history.note(Ended(text), now)
        case _:
            pass


def history_of(call: Call, now: float) -> CallHistory:
    """What ``call`` has tried so far, and what came of it."""
    ours, theirs = call.candidate_counts
    return CallHistory(
        name=call.name,
        incoming=call.incoming,
        app=call.app,
        age_seconds=max(0.0, round(now - call.history.began_at, 3)),
        over=call.is_over,
        steps=call.history.steps,
        omitted=call.history.omitted,
        ours=ours,
        theirs=theirs,
        checks=() if call.connection is None else call.connection.ice.check_counts,
    )


def _path_used(path: PathInfo | None) -> PathUsed:
    if path is None:
        return PathUsed(relayed=True)
    return PathUsed(
        path.relayed,
        path.local,
        path.remote,
        path.local_kind,
        path.remote_kind,
        path.transport.value,
    )

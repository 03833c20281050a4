"""Why a call came to nothing, in words for the caller."""

from __future__ import annotations

from typing import Final

from knothole.wire.signal.messages import CallFailed
from knothole.wire.signal.values import Failure

_TEXTS: Final = {
    Failure.UNKNOWN: "there is nobody of that name on this server, or nobody who shows you so",
    Failure.OFFLINE: "that person is not online",
    Failure.STALE_KEY: "that person has a new sealing key; look the name up again",
    Failure.NO_ANSWER: "nobody answered",
    Failure.CALLEE_GONE: "the other side's connection to the server was lost while it rang",
    Failure.CALLER_GONE: "your connection to the server was lost for too long while it rang",
    Failure.TOO_MANY_CALLS: "too many calls are waiting to be answered already",
    Failure.CALL_ID_IN_USE: "this call id is in use",
}


def call_failed(call_id: bytes, failure: Failure) -> CallFailed:
    """The message that ends a call for the caller before anybody answered or declined."""
    return CallFailed(call_id, failure, _TEXTS[failure])

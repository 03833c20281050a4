"""Why a call came to nothing, in words that say what to do."""

from __future__ import annotations

from typing import Final

from knothole.engine.connection import Loss
from knothole.engine.endpoint.events import CallFault
from knothole.engine.secure.events import CloseCode, Closed
from knothole.wire.signal.values import Failure, Reason

FAULT_OF_REASON: Final[dict[str, CallFault]] = {
    Reason.BUSY: CallFault.BUSY,
    Reason.KEY_CHANGED: CallFault.KEY_CHANGED_THERE,
    Reason.NO_ANSWER: CallFault.NO_ANSWER,
    Reason.GLARE: CallFault.BUSY,  # another device of theirs is calling us
}
"""What a decline means; everything else is DECLINED."""

FAULT_OF_FAILURE: Final[dict[str, CallFault]] = {
    Failure.UNKNOWN: CallFault.UNKNOWN,
    Failure.OFFLINE: CallFault.OFFLINE,
    Failure.CALLEE_GONE: CallFault.OFFLINE,
    Failure.NO_ANSWER: CallFault.NO_ANSWER,
}


def line_lost(loss: Loss, name: str) -> tuple[CallFault | None, str]:
    """Whose fault it is that a line to ``name`` was lost, and what is said of it."""
    match loss:
        case Loss.NO_PATH:
            text = "UDP does not get through, and neither does a relay."
            return CallFault.FAILED, f"No path to {name} was found: {text}"
        case Loss.SILENCE:
            return None, f"{name} is gone: nothing was heard any more"
        case Loss.HUNG_UP:
            return None, f"{name} hung up"


def channel_closed(closed: Closed, name: str) -> tuple[CallFault | None, str]:
    """The same where QUIC's connection has ended."""
    if closed.code != CloseCode.NORMAL:
        return CallFault.FAILED, f"The line to {name} broke: {closed.reason}"
    reason = f"{name} closed the line"
    return None, f"{reason}: {closed.reason}" if closed.reason else reason


def explain(fault: CallFault, name: str) -> str:
    """One line for a person. ``name`` is the other side's."""
    match fault:
        case CallFault.UNKNOWN:
            return f"Nobody named {name} is registered on this switchboard: check the name."
        case CallFault.OFFLINE:
            return f"{name} is offline."
        case CallFault.DECLINED:
            return f"{name} does not take the call."
        case CallFault.BUSY:
            return f"{name} is busy."
        case CallFault.NO_ANSWER:
            return f"{name} does not answer."
        case CallFault.KEY_CHANGED_THERE:
            return (
                f"{name} remembers another key for us and refuses the call: "
                f"ask {name} to run: knothole contacts --forget NAME"
            )
        case CallFault.CANCELLED:
            return f"{name} took the call back."
        case _:
            return f"The call to {name} failed."

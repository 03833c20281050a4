"""Two people who call each other at the same moment (docs/protocol/signal.md Section 5.6)."""

from __future__ import annotations


def own_call_wins(own_call_id: bytes, their_call_id: bytes) -> bool:
    """True when our call to them goes on and theirs to us ends; they come to the opposite answer.

    For calls between people (kind "call"): lines opened by programs are independent of each
    other. The loser cancels its own call with the reason "glare" and answers the other at once;
    the winner declines the other's call with the reason "glare" and waits. The lower id wins;
    ids are random, and choosing a low one gains nothing but to be the caller.
    """
    if own_call_id == their_call_id:
        raise ValueError("two calls never have the same id")
    return own_call_id < their_call_id

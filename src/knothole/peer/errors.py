"""What can go wrong for a user of the library, each with what happened and what to do."""

from __future__ import annotations


class KnotholeError(Exception):
    """The root of every error of this package; ``str()`` of it is fit to be shown to a person."""


class ProfileError(KnotholeError):
    """The profile folder has no identity yet, or a file in it cannot be used."""


class ServerUnreachable(KnotholeError):
    """No way to the switchboard was open, or it did not answer in time."""


class ServerKeyChanged(KnotholeError):
    """The switchboard's key is not the pinned one: another server, or somebody in between."""


class RegistrationRefused(KnotholeError):
    """The switchboard does not let us register: the name is taken, an invitation is needed, ..."""


class UnknownName(KnotholeError):
    """Nobody of this name is registered on our switchboard (or nobody whom we may see)."""


class PeerOffline(KnotholeError):
    """The name is known and no device of it is online."""


class CallDeclined(KnotholeError):
    """The other side does not take the call."""


class PeerBusy(CallDeclined):
    """The other side is in another call."""


class NoAnswer(KnotholeError):
    """It rang and nobody answered, or no line came about within the timeout."""


class PeerKeyChanged(KnotholeError):
    """The peer's key is not the one remembered: refused, as ssh does."""


class LineClosed(KnotholeError):
    """The line is over; ``str()`` says who ended it and why."""

"""Whose calls are taken."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from knothole.peer.errors import KnotholeError
from knothole.wire.signal.values import (
    ANYONE,
    MAX_NAMES,
    NOBODY,
    Audience,
    AudienceKind,
    InvalidName,
    canonical_name,
)


class BadAccept(KnotholeError):
    """The rule for whose calls are taken makes no sense."""


class Taking(enum.Enum):
    """What becomes of a call that may come: see the argument ``takes`` of Peer."""

    YES = enum.auto()
    BUSY = enum.auto()
    """Not now; another device of the same person may."""
    NO = enum.auto()
    """Not here; another device of the same person may."""


@dataclass(frozen=True, slots=True)
class Accept:
    """``names`` of None: anyone, or with ``contacts_only`` those whose keys are remembered."""

    names: frozenset[str] | None = None
    contacts_only: bool = False

    def takes(self, name: str, key_known: bool) -> bool:
        """Whether a call of ``name`` is taken; ``key_known``: its remembered key has called."""
        if self.names is not None:
            return name in self.names
        return key_known or not self.contacts_only

    def disclosure(
        self, contacts: Collection[str], *, ask: bool, hidden_from: Collection[str] = ()
    ) -> Audience:
        """To whom the switchboard may show our addresses before we have answered; ``contacts`` are
        the names of those whose keys are remembered. Where somebody is not to see them, nobody
        unknown is: names cost nothing."""
        if ask:
            return NOBODY
        if self.names is None and not self.contacts_only and not hidden_from:
            return ANYONE
        names = frozenset(self.names if self.names is not None else contacts) - {*hidden_from}
        return Audience(AudienceKind.NAMES, tuple(sorted(names)[:MAX_NAMES]))


def parse_accept(accept: str | Iterable[str]) -> Accept:
    """ "anyone", "contacts", or names (in one text with commas, or several). Raises BadAccept."""
    if isinstance(accept, str):
        if accept == "anyone":
            return Accept()
        if accept == "contacts":
            return Accept(contacts_only=True)
        accept = accept.split(",")
    try:
        names = frozenset(canonical_name(name.strip()) for name in accept)
    except InvalidName as error:
        raise BadAccept(f"accept: {error}: use anyone, contacts or NAME,NAME") from error
    if not names:
        raise BadAccept("accept: name somebody, or use anyone or contacts")
    return Accept(names)

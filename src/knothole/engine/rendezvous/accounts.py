"""Who owns which name: what the server keeps when it restarts."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from knothole.wire.signal.values import Audience


@dataclass(frozen=True, slots=True)
class Account:
    """A name with the key that owns it.

    ``public_key`` never changes while the account exists; the sealing key and who may see the
    person are what the latest registration said.
    """

    name: str
    public_key: bytes
    sealing_key: bytes
    sealing_signature: bytes
    visible_to: Audience


class Creation(enum.Enum):
    CREATED = enum.auto()
    NAME_TAKEN = enum.auto()
    BAD_INVITATION = enum.auto()


class AccountsUnavailable(Exception):
    """The store does not work at the moment: a full disk, for instance."""


class Accounts(Protocol):
    """A store that answers at once; each call is one transaction.

    Every method may raise :class:`AccountsUnavailable`.
    """

    def get(self, name: str) -> Account | None: ...

    def create(self, account: Account, invitation: str | None) -> Creation:
        """A new account; with ``invitation`` not None that code is used up in the same step."""

    def update(self, account: Account) -> None:
        """Replace everything but the owner's key, which must be the same."""


class MemoryAccounts:
    """Accounts that are gone with the process: for the simulator and for tests."""

    def __init__(self, invitations: frozenset[str] = frozenset()) -> None:
        self._accounts: dict[str, Account] = {}
        self._invitations = set(invitations)

    def get(self, name: str) -> Account | None:
        return self._accounts.get(name)

    def create(self, account: Account, invitation: str | None) -> Creation:
        if account.name in self._accounts:
            return Creation.NAME_TAKEN
        if invitation is not None:
            if invitation not in self._invitations:
                return Creation.BAD_INVITATION
            self._invitations.remove(invitation)
        self._accounts[account.name] = account
        return Creation.CREATED

    def update(self, account: Account) -> None:
        if self._accounts[account.name].public_key != account.public_key:
            raise ValueError("a name never changes hands")
        self._accounts[account.name] = account

"""Accounts in one SQLite file: names, the keys that own them, invitations. No passwords."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from knothole.engine.core import RandomBytes
from knothole.engine.rendezvous.accounts import Account, AccountsUnavailable, Creation
from knothole.wire.signal.values import Audience

_CODE_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: 20 of them are 100 bits
_MISREAD: Final = str.maketrans("oil", "011")
_CODE_CONTEXT: Final = b"knothole/1 invitation\x00"

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE account (
    name TEXT PRIMARY KEY NOT NULL,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    sealing_key BLOB NOT NULL CHECK (length(sealing_key) = 32),
    sealing_signature BLOB NOT NULL CHECK (length(sealing_signature) = 64),
    visible_to BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE invitation (
    code_hash BLOB PRIMARY KEY NOT NULL,
    created INTEGER NOT NULL,
    used INTEGER,
    used_by TEXT
) STRICT, WITHOUT ROWID;
"""


class StoreError(Exception):
    """The file cannot be used; the text names it and says why."""


class SqliteAccounts:
    """The :class:`~knothole.engine.rendezvous.accounts.Accounts` of a real server.

    For one thread. Every change is on the disk when the method returns, so that a name given away
    stays given away even when the power fails the next moment. Only one server uses a file at a
    time.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Opens or makes the file. Raises :class:`StoreError`."""
        self._path = path
        self._clock = clock
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the accounts file {path}: {error}") from error
        try:
            self._prepare()
        except (sqlite3.Error, StoreError) as error:
            self._db.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot use the accounts file {path}: {error}") from error

    def close(self) -> None:
        self._db.close()

    def get(self, name: str) -> Account | None:
        with _disk_errors():
            return self._get(name)

    def create(self, account: Account, invitation: str | None) -> Creation:
        now = int(self._clock())
        with _disk_errors(), self._transaction():
            if self._get(account.name) is not None:
                return Creation.NAME_TAKEN
            if invitation is not None:
                used = self._db.execute(
                    "UPDATE invitation SET used = ?, used_by = ?"
                    " WHERE code_hash = ? AND used IS NULL",
                    (now, account.name, _code_hash(invitation)),
                )
                if used.rowcount != 1:
                    return Creation.BAD_INVITATION
            self._db.execute(
                "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?)",
                (
                    account.name,
                    account.public_key,
                    account.sealing_key,
                    account.sealing_signature,
                    msgspec.msgpack.encode(account.visible_to),
                    now,
                ),
            )
            return Creation.CREATED

    def update(self, account: Account) -> None:
        with _disk_errors():
            changed = self._db.execute(
                "UPDATE account SET sealing_key = ?, sealing_signature = ?, visible_to = ?"
                " WHERE name = ? AND public_key = ?",
                (
                    account.sealing_key,
                    account.sealing_signature,
                    msgspec.msgpack.encode(account.visible_to),
                    account.name,
                    account.public_key,
                ),
            )
        if changed.rowcount != 1:
            raise ValueError("a name never changes hands")

    def remove(self, name: str) -> bool:
        """Free a name, by order of the operator. False when there is none of that name."""
        with _disk_errors():
            return self._db.execute("DELETE FROM account WHERE name = ?", (name,)).rowcount == 1

    def names(self) -> list[str]:
        with _disk_errors():
            return [name for (name,) in self._db.execute("SELECT name FROM account ORDER BY name")]

    def invite(self, random: RandomBytes) -> str:
        """A new invitation code, good for one name; only its hash is kept."""
        code = "-".join("".join(_CODE_LETTERS[byte & 31] for byte in random(5)) for _ in range(4))
        with _disk_errors():
            self._db.execute(
                "INSERT INTO invitation (code_hash, created) VALUES (?, ?)",
                (_code_hash(code), int(self._clock())),
            )
        return code

    def open_invitations(self) -> int:
        """How many invitations have not been used."""
        with _disk_errors():
            (count,) = self._db.execute(
                "SELECT count(*) FROM invitation WHERE used IS NULL"
            ).fetchone()
        return int(count)

    def _get(self, name: str) -> Account | None:
        row = self._db.execute(
            "SELECT name, public_key, sealing_key, sealing_signature, visible_to"
            " FROM account WHERE name = ?",
            (name,),
        ).fetchone()
        if row is None:
            return None
        name, public_key, sealing_key, sealing_signature, visible_to = row
        audience = msgspec.msgpack.decode(visible_to, type=Audience)
        return Account(name, public_key, sealing_key, sealing_signature, audience)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA busy_timeout = 2000")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # names survive a power failure
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                raise StoreError(
                    f"the accounts file {self._path} has format {version}; this program knows "
                    f"{_SCHEMA_VERSION}: use the version of knothole that wrote it, or a newer one"
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


@contextmanager
def _disk_errors() -> Iterator[None]:
    """What SQLite says when the disk is full or broken, as the engine knows it."""
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise AccountsUnavailable(f"the accounts file cannot be used: {error}") from error


def _code_hash(code: str) -> bytes:
    """Codes are typed by people: case, spaces and dashes do not count, o is 0, i and l are 1."""
    bare = "".join(code.lower().split()).replace("-", "").translate(_MISREAD)
    return hashlib.sha256(_CODE_CONTEXT + bare.encode("utf-8", "backslashreplace")).digest()

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from knothole.engine.rendezvous.accounts import Account, AccountsUnavailable, Creation
from knothole.server.store import SqliteAccounts, StoreError
from knothole.wire.signal.values import ANYONE, Audience, AudienceKind

BOB = Account("bob", b"p" * 32, b"s" * 32, b"g" * 64, ANYONE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteAccounts]:
    opened = SqliteAccounts(path, clock=lambda: 1000.0)
    yield opened
    opened.close()


def test_an_account_is_there_after_the_server_was_started_again(
    path: Path, store: SqliteAccounts
) -> None:
    assert store.get("bob") is None
    assert store.create(BOB, None) is Creation.CREATED
    store.close()
    again = SqliteAccounts(path)
    assert again.get("bob") == BOB
    assert again.names() == ["bob"]
    again.close()


def test_a_name_is_given_once(store: SqliteAccounts) -> None:
    store.create(BOB, None)
    assert store.create(replace(BOB, public_key=b"q" * 32), None) is Creation.NAME_TAKEN
    assert store.get("bob") == BOB


def test_everything_but_the_owners_key_can_change(store: SqliteAccounts) -> None:
    store.create(BOB, None)
    changed = Account(
        "bob", b"p" * 32, b"t" * 32, b"h" * 64, Audience(AudienceKind.NAMES, ("alice",))
    )
    store.update(changed)
    assert store.get("bob") == changed
    with pytest.raises(ValueError, match="never changes hands"):
        store.update(replace(changed, public_key=b"q" * 32))
    with pytest.raises(ValueError, match="never changes hands"):
        store.update(replace(changed, name="nobody"))


def test_an_invitation_is_good_for_one_name(store: SqliteAccounts) -> None:
    code = store.invite(random.Random(1).randbytes)
    assert store.open_invitations() == 1
    assert store.create(BOB, "no such code") is Creation.BAD_INVITATION
    assert store.get("bob") is None
    assert store.create(BOB, code) is Creation.CREATED
    assert store.create(replace(BOB, name="carol"), code) is Creation.BAD_INVITATION
    assert store.open_invitations() == 0


def test_a_taken_name_does_not_use_up_the_invitation(store: SqliteAccounts) -> None:
    store.create(BOB, None)
    code = store.invite(random.Random(1).randbytes)
    assert store.create(BOB, code) is Creation.NAME_TAKEN
    assert store.open_invitations() == 1


def test_an_invitation_may_be_typed_carelessly(store: SqliteAccounts) -> None:
    code = store.invite(random.Random(3).randbytes)
    typed = f" {code.upper().replace('-', ' ').replace('0', 'O').replace('1', 'l')} "
    assert store.create(BOB, typed) is Creation.CREATED


def test_invitations_from_the_network_may_be_any_text(store: SqliteAccounts) -> None:
    for code in ("", "\ud800", "\x00", "x" * 128, "'; DROP TABLE account; --"):
        assert store.create(BOB, code) is Creation.BAD_INVITATION


def test_invitation_codes_are_not_in_the_file(path: Path, store: SqliteAccounts) -> None:
    code = store.invite(random.Random(1).randbytes)
    store.close()
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert code.encode() not in content and code.replace("-", "").encode() not in content


def test_the_operator_can_free_a_name(store: SqliteAccounts) -> None:
    store.create(BOB, None)
    assert store.remove("bob") and not store.remove("bob")
    assert store.create(replace(BOB, public_key=b"q" * 32), None) is Creation.CREATED


def test_the_file_is_for_its_owner_only(path: Path, store: SqliteAccounts) -> None:
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_of_a_later_version_is_refused(path: Path, store: SqliteAccounts) -> None:
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match=r"accounts\.sqlite has format 99"):
        SqliteAccounts(path)


def test_a_file_that_is_no_database_is_refused_by_name(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"accounts\.sqlite"):
        SqliteAccounts(path)


def test_a_folder_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot open the accounts file .*missing"):
        SqliteAccounts(path.parent / "missing" / "accounts.sqlite")


def test_a_store_that_stops_working_says_so_with_one_error(store: SqliteAccounts) -> None:
    store.close()
    for use in (
        lambda: store.get("bob"),
        lambda: store.create(BOB, None),
        lambda: store.update(BOB),
        lambda: store.remove("bob"),
        lambda: store.names(),
        lambda: store.open_invitations(),
        lambda: store.invite(random.Random(1).randbytes),
    ):
        with pytest.raises(AccountsUnavailable):
            use()


def test_two_programs_can_use_the_file_at_the_same_time(path: Path, store: SqliteAccounts) -> None:
    other = SqliteAccounts(path)
    code = other.invite(random.Random(5).randbytes)
    other.close()
    assert store.create(BOB, code) is Creation.CREATED

"""Keys that are remembered: by server and name, across programs, and never changed in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from knothole.peer.contacts import Contacts
from knothole.peer.errors import ProfileError

KEY, OTHER = b"k" * 32, b"o" * 32


def test_same_name_on_another_server_is_somebody_else(tmp_path: Path) -> None:
    here, there = (Contacts(tmp_path / "known.json", server) for server in ("here", "there"))
    here.remember("bob", KEY)
    here.save()
    assert there.get("bob") is None
    there.remember("bob", OTHER)
    there.save()
    assert here.load()["bob"].public_key == KEY
    assert there.load()["bob"].public_key == OTHER


def test_another_key_is_never_remembered_over_the_first(tmp_path: Path) -> None:
    contacts = Contacts(tmp_path / "known.json", "here")
    assert contacts.remember("bob", KEY)
    assert not contacts.remember("bob", OTHER)
    contacts.save()
    assert contacts.load()["bob"].public_key == KEY


def test_running_program_follows_what_another_one_forgets(tmp_path: Path) -> None:
    running, other = (Contacts(tmp_path / "known.json", "here") for _ in range(2))
    running.remember("bob", KEY)
    running.save()
    assert running.get("bob") is not None
    assert other.forget("bob")
    assert not other.forget("bob")
    assert running.get("bob") is None


def test_two_programs_lose_nothing_of_each_other(tmp_path: Path) -> None:
    one, two = (Contacts(tmp_path / "known.json", "here") for _ in range(2))
    one.remember("bob", KEY)
    two.remember("carol", OTHER)
    one.save()
    two.save()
    assert set(one.load()) == {"bob", "carol"}


def test_damaged_file_is_an_error_and_what_was_read_still_holds(tmp_path: Path) -> None:
    contacts = Contacts(tmp_path / "known.json", "here")
    contacts.remember("bob", KEY)
    contacts.save()
    contacts.load()
    (tmp_path / "known.json").write_text("not json")
    assert contacts.get("bob") is not None
    with pytest.raises(ProfileError, match="cannot be read"):
        contacts.load()

"""Whose credentials are good no more, as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from knothole.server.revocation import RevocationError, load_revoked, owners_of, set_revoked


def test_names_are_put_on_the_list_and_taken_off_it(tmp_path: Path) -> None:
    assert load_revoked(tmp_path) == ()
    assert set_revoked(tmp_path, "alice", True)
    assert not set_revoked(tmp_path, "alice", True)
    assert set_revoked(tmp_path, "bob", True)
    assert load_revoked(tmp_path) == ("alice", "bob")
    assert (tmp_path / "revoked-users").stat().st_mode & 0o777 == 0o600
    assert set_revoked(tmp_path, "alice", False)
    assert not set_revoked(tmp_path, "alice", False)
    assert load_revoked(tmp_path) == ("bob",)


def test_a_list_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "revoked-users").write_bytes(b"\xff")
    with pytest.raises(RevocationError, match="is not UTF-8 text"):
        load_revoked(tmp_path)
    with pytest.raises(RevocationError, match="cannot be written"):
        set_revoked(tmp_path / "nowhere", "alice", True)


def test_the_list_stays_small_enough_to_be_told_in_one_packet(tmp_path: Path) -> None:
    for n in range(70):
        assert set_revoked(tmp_path, f"{n:02}" + "x" * 400, True)
    with pytest.raises(RevocationError, match="bring in a new secret"):
        for n in range(70, 90):
            set_revoked(tmp_path, f"{n:02}" + "x" * 400, True)
    assert 70 <= len(load_revoked(tmp_path)) < 90


def test_a_name_is_a_user_of_either_kind() -> None:
    assert owners_of(("alice", "bob")) == [":alice", "alice", ":bob", "bob"]

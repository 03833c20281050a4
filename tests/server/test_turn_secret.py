"""The secret of the TURN credentials as a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knothole.server.turn_secret import (
    SecretError,
    drop_old_secrets,
    load_secrets,
    own_secrets,
    rotate_secret,
)

LONG = "a secret of 16 characters or more"


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "turn-secret"
    first = own_secrets(file)
    assert len(first) == 1
    assert len(first[0]) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert own_secrets(file) == first
    assert own_secrets(tmp_path / "another") != first


def test_rotation_keeps_the_last_secret_good_and_no_older_one(tmp_path: Path) -> None:
    file = tmp_path / "turn-secret"
    [first] = own_secrets(file)
    rotate_secret(file)
    second, before = load_secrets(file)
    assert before == first != second
    rotate_secret(file)
    third, before = load_secrets(file)
    assert before == second != third
    assert file.stat().st_mode & 0o777 == 0o600
    drop_old_secrets(file)
    assert load_secrets(file) == (third,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds 0 secrets"),
        ("\n \n", "holds 0 secrets"),
        (f"{LONG}1\n{LONG}2\n{LONG}3\n", "holds 3 secrets"),
        (f"{LONG}\nshort\n", "is shorter than 16 characters"),
    ],
)
def test_a_file_that_holds_no_good_secret_is_refused(tmp_path: Path, content, said) -> None:
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text(content)
    with pytest.raises(SecretError, match=said) as caught:
        load_secrets(file)
    assert str(file) in str(caught.value)
    assert LONG not in str(caught.value)


def test_a_file_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(LONG)
    file.chmod(0o644)
    with pytest.raises(SecretError, match="can be read by everybody: chmod 600"):
        own_secrets(file)


def test_trouble_with_the_file_is_told_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(SecretError, match="cannot be read: No such file"):
        load_secrets(file)
    with pytest.raises(SecretError, match="cannot be written"):
        own_secrets(tmp_path / "nowhere" / "secret")
    file.write_bytes(b"\xff" * 32)
    os.chmod(file, 0o600)
    with pytest.raises(SecretError, match="is not UTF-8 text"):
        load_secrets(file)

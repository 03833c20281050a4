"""Files that are replaced whole, and who may read them afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knothole.peer.files import replace_file

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX")


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o666, 0o640)])
def test_the_group_that_could_read_it_still_can_and_nobody_else(tmp_path, before, after) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(before)
    replace_file(file, b"new")
    assert file.stat().st_mode & 0o777 == after


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only the superuser can")
def test_what_the_superuser_replaces_stays_the_file_of_whose_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    os.chown(file, 12_345, 23_456)
    os.chown(tmp_path, 34_567, 45_678)
    replace_file(file, b"new")
    replace_file(tmp_path / "another", b"new")
    assert (file.stat().st_uid, file.stat().st_gid) == (12_345, 23_456)
    made = (tmp_path / "another").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (34_567, 45_678, 0o600)

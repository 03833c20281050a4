"""`knothole server revoke`: a name that would shut nobody out is not taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from knothole.cli.app import run
from knothole.server.revocation import load_revoked


def test_a_device_is_not_said_to_be_shut_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`alice/phone` is the user alice to the relay: that name on the list would change nothing."""
    assert run(["server", "revoke", "alice/phone", "--data", str(tmp_path)]) == 2
    assert "'alice/phone' is one device of 'alice'" in capsys.readouterr().err
    assert load_revoked(tmp_path) == ()
    assert run(["server", "revoke", "alice", "--data", str(tmp_path)]) == 0
    assert load_revoked(tmp_path) == ("alice",)


def test_a_configured_user_may_have_such_a_name(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a long password\n")
    (tmp_path / "password").chmod(0o600)
    file = tmp_path / "server.toml"
    file.write_text(
        f"data = '{tmp_path}'\n[[user]]\nname = 'rooms/bridge'\npassword-file = 'password'\n"
    )
    assert run(["server", "revoke", "rooms/bridge", "--config", str(file)]) == 0
    assert load_revoked(tmp_path) == ("rooms/bridge",)


def test_what_stands_on_the_list_can_be_taken_off(tmp_path: Path) -> None:
    (tmp_path / "revoked-users").write_text("alice/phone\n")
    assert run(["server", "revoke", "--undo", "alice/phone", "--data", str(tmp_path)]) == 0
    assert load_revoked(tmp_path) == ()

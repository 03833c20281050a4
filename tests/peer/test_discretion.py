"""Policies for single contacts, where their file cannot be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from knothole.peer.discretion import ByPolicy, Policies, Policy
from knothole.peer.errors import ProfileError


def test_without_a_file_the_default_holds(tmp_path: Path) -> None:
    assert Policies(tmp_path / "policies.json", "server").of("bob") is Policy.DEFAULT


def test_who_cannot_look_at_the_file_shows_no_address(tmp_path: Path) -> None:
    """A folder that is a file stands for one that may not be entered: tests run as root too."""
    (tmp_path / "file").write_bytes(b"")
    policies = Policies(tmp_path / "file" / "policies.json", "server")
    with pytest.raises(ProfileError, match=r"policies\.json cannot be read"):
        policies.of("bob")
    assert ByPolicy(policies, relay_only=False).relay_only("bob", incoming=True)

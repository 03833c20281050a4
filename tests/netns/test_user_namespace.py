"""A lab needs no root where the kernel lets users make namespaces of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import knothole.lab.netns
import knothole.wire.address

pytestmark = pytest.mark.netns

NOBODY = 65534

PROGRAM = """
import os, socket
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.topology import Lab
assert os.geteuid() == 65534
with Lab() as lab:
    server = lab.add_server()
    lab.add_client("alice", nat="range", line=LineSettings(one_way_seconds=0.005))
    with lab.inside("server"):
        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far.bind((server.address, 3478))
    with lab.inside("alice"):
        near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    near.bind(("0.0.0.0", 1414))
    near.sendto(b"who am I", (server.address, 3478))
    print(far.recvfrom(64)[1])
    lab.restart_nat("alice")
    near.sendto(b"who am I", (server.address, 3478))
    print(far.recvfrom(64)[1])
    far.close(), near.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests have shown it already")
def test_a_user_without_rights_builds_a_lab(tmp_path: Path) -> None:
    """In a copy of the lab alone: the home of root may be closed to the user."""
    package = tmp_path / "knothole" / "lab"
    shutil.copytree(Path(knothole.lab.netns.__file__).parent, package / "netns")
    shutil.copytree(Path(knothole.wire.address.__file__).parent, tmp_path / "knothole" / "wire")
    (package / "__init__.py").touch()
    (package.parent / "__init__.py").touch()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/tmp") and folder != Path("/"):
            folder.chmod(0o755)
    python = sys.executable if _runs_as_nobody(sys.executable) else "/usr/bin/python3"
    done = subprocess.run(
        [python, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "not allowed" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert not done.stderr, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "('1.1.1.1', 31414)"
    assert second == "('1.1.1.1', 41414)"


def _runs_as_nobody(python: str) -> bool:
    try:
        subprocess.run([python, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True

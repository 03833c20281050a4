"""The files for service managers and containers: whatever in them can be tried is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from knothole.cli.app import command_app

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "knothole.service"
CONTAINER = ROOT / "deploy" / "Containerfile"


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "knothole"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "knothole.service"
    unit.write_text(UNIT.read_text().replace("/opt/knothole/bin/knothole", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_gives_what_the_server_wants_and_no_more() -> None:
    [capabilities] = settings("AmbientCapabilities")
    assert set(capabilities.split()) == {
        "CAP_NET_BIND_SERVICE",
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "CAP_PERFMON",
    }
    assert settings("CapabilityBoundingSet") == [capabilities]
    assert settings("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    [filtered] = settings("SystemCallFilter")
    assert "bpf" in filtered.split(), "@system-service has it not"
    assert settings("MemoryDenyWriteExecute") == [], "DTLS would keep the server from starting"


@pytest.mark.parametrize("where", ["unit", "container"])
def test_the_command_in_it_is_one(where: str) -> None:
    if where == "unit":
        [command] = settings("ExecStart")
        words = command.split()
    else:
        found = re.search(r"^ENTRYPOINT (\[.*\])$", CONTAINER.read_text(), re.MULTILINE)
        assert found is not None
        words = json.loads(found[1])
    assert words[0] == "/opt/knothole/bin/knothole"
    app = command_app(words[1])
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_the_container_is_built_from_files_that_make_the_whole_program(tmp_path: Path) -> None:
    copies = re.findall(r"^COPY (?!--)(.*) (/build/\S*)$", CONTAINER.read_text(), re.MULTILINE)
    assert len(copies) == 2
    build = tmp_path / "build"
    build.mkdir()
    for sources, destination in copies:
        target = tmp_path / destination.removeprefix("/")
        for source in sources.split():
            there = ROOT / source
            assert there.exists(), source
            if there.is_dir():
                shutil.copytree(there, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(there, target)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=build,
        check=True,
        capture_output=True,
        timeout=120,
    )
    [wheel] = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "knothole"
    modules = {f"knothole/{path.relative_to(package)}" for path in package.rglob("*.py")}
    assert modules <= inside
    assert {f"knothole/{path.relative_to(package)}" for path in package.rglob("*.o")} <= inside

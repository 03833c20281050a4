"""Nothing is left of a lab: not at its end, not after an error, not after kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.lab.netns import sweep
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.topology import Lab

pytestmark = pytest.mark.netns

BUILDER = """
import json, os, subprocess, sys, time
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.topology import Lab
with Lab() as lab:
    lab.add_server()
    lab.add_client("alice", nat="linux-collision", line=LineSettings(one_way_seconds=0.01))
    child = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    program = lab.popen("alice", [sys.executable, "-c", child])
    while not os.path.exists(f"/proc/{program.pid}/task/{program.pid}/children"):
        pass
    while not open(f"/proc/{program.pid}/task/{program.pid}/children").read():
        time.sleep(0.01)
    inodes = [each.inode for each in lab._namespaces]
    guardian = lab._guardian._process.pid
    print(json.dumps({"name": lab.name, "inodes": inodes, "guardian": guardian}), flush=True)
    time.sleep(600)
"""


def held(inodes: list[int]) -> list[str]:
    """Whoever still holds one of these namespaces: as a process in it, or by a descriptor."""
    links = {f"net:[{inode}]" for inode in inodes}
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for path in (process / "ns/net", *(process / "fd").iterdir()):
                with contextlib.suppress(OSError):
                    if os.readlink(path) in links:
                        holders.append(str(path))
    return holders


def marked(name: str) -> list[int]:
    return [process for process, mark in sweep._marked_processes() if mark == name]


def wait_until_gone(name: str, inodes: list[int]) -> None:
    deadline = time.monotonic() + 40.0
    while marked(name) or held(inodes):
        assert time.monotonic() < deadline, f"still there: {marked(name)} {held(inodes)}"
        time.sleep(0.02)


@pytest.fixture
def builder() -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


Built = tuple[subprocess.Popen[str], dict[str, object]]


def unpack(built: Built) -> tuple[subprocess.Popen[str], str, list[int], int]:
    process, facts = built
    name, inodes, guardian = facts["name"], facts["inodes"], facts["guardian"]
    assert isinstance(name, str) and isinstance(inodes, list) and isinstance(guardian, int)
    assert len(held(inodes)) > len(inodes), "a lab that runs is seen"
    assert len(marked(name)) >= 3, "the line, the program and what it started"
    return process, name, inodes, guardian


def test_a_lab_that_ends_leaves_no_process_and_no_namespace() -> None:
    with Lab() as lab:
        lab.add_server()
        lab.add_client("alice", line=LineSettings(one_way_seconds=0.01))
        lab.popen("alice", ["sh", "-c", "sleep 600 & sleep 600"])
        name, inodes = lab.name, [each.inode for each in lab._namespaces]
    assert not marked(name)
    assert not held(inodes)


def test_so_does_one_that_ends_in_an_error() -> None:
    with pytest.raises(ZeroDivisionError), Lab() as lab:
        lab.add_client("alice", nat="linux-collision")
        lab.popen("alice", ["sleep", "600"])
        name, inodes = lab.name, [each.inode for each in lab._namespaces]
        raise ZeroDivisionError
    assert not marked(name)
    assert not held(inodes)


def test_closing_twice_does_no_harm() -> None:
    lab = Lab()
    lab.add_client("alice")
    lab.close()
    lab.close()


def test_kill_9_leaves_nothing(builder: Built) -> None:
    process, name, inodes, _ = unpack(builder)
    process.kill()
    process.wait()
    wait_until_gone(name, inodes)


def test_ctrl_c_leaves_nothing(builder: Built) -> None:
    process, name, inodes, _ = unpack(builder)
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    wait_until_gone(name, inodes)


def test_the_next_lab_sweeps_when_the_guardian_was_killed_as_well(builder: Built) -> None:
    process, name, inodes, guardian = unpack(builder)
    os.kill(guardian, signal.SIGKILL)
    process.kill()
    process.wait()
    assert marked(name), "nobody is left to end them"
    with Lab():
        wait_until_gone(name, inodes)


def test_a_lab_never_ends_the_processes_of_another_that_runs(builder: Built) -> None:
    _, name, _, _ = unpack(builder)
    before = marked(name)
    with Lab():
        pass
    assert marked(name) == before


def test_the_machines_own_network_is_left_alone() -> None:
    def interfaces() -> str:
        return Path("/proc/thread-self/net/dev").read_text().splitlines()[0] + str(
            sorted(os.listdir("/sys/class/net"))
        )

    before = interfaces(), os.readlink("/proc/thread-self/ns/net")
    with Lab() as lab:
        lab.add_server()
        lab.add_client("alice", line=LineSettings(one_way_seconds=0.01))
        assert (interfaces(), os.readlink("/proc/thread-self/ns/net")) == before
    assert (interfaces(), os.readlink("/proc/thread-self/ns/net")) == before

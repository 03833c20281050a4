"""``knothole lab shell`` and ``lab run``: into a lab from anywhere, and nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from knothole.lab.netns import sweep
from knothole.lab.netns.sweep import MARK
from knothole.lab.visit import FOLDER

pytestmark = pytest.mark.netns

KNOTHOLE: Final = (sys.executable, "-m", "knothole")
PATIENCE: Final = 60.0


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Of somebody whose labs are their own, and who is in none."""
    kept = {key: value for key, value in os.environ.items() if key not in (MARK, FOLDER)}
    return {**kept, "TMPDIR": str(tmp_path), "SHELL": "/bin/sh", "PYTHONWARNINGS": "error"}


@pytest.fixture
def shell(env: dict[str, str]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    with contextlib.ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            """A lab, ready; its shell waits for commands."""
            process = stack.enter_context(
                subprocess.Popen(
                    [*KNOTHOLE, "lab", "shell", "none", "none"],
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
            stack.callback(process.kill)
            limit = threading.Timer(PATIENCE, process.kill)
            stack.callback(limit.cancel)
            limit.start()
            assert process.stdout is not None
            assert any(line.startswith("Go into one") for line in process.stdout)
            limit.cancel()
            return process

        yield start


def run(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KNOTHOLE, "lab", "run", *words], env=env, capture_output=True, text=True, timeout=PATIENCE
    )


def folders(tmp_path: Path) -> list[Path]:
    return [*next(tmp_path.glob("knothole-labs-*")).iterdir()]


def test_commands_of_its_input_run_and_the_last_ones_code_is_its_own(env: dict[str, str]) -> None:
    script = (
        "knothole lab run alice -- getent hosts bob-nat\nknothole lab run alice -- sh -c 'exit 7'\n"
    )
    done = subprocess.run(
        [*KNOTHOLE, "lab", "shell"], env=env, input=script, capture_output=True, text=True
    )
    assert done.returncode == 7
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].split() == ["2.2.2.2", "bob-nat"]


def test_another_terminal_goes_in_and_is_who_it_says(
    env: dict[str, str], shell: Callable[[], subprocess.Popen[str]]
) -> None:
    shell()
    done = run(env, "alice", "--", "knothole", "status", "--json")
    assert done.returncode == 0, done.stderr
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    assert facts[0]["name"] == "alice"
    typed = subprocess.run(
        [*KNOTHOLE, "lab", "run", "remote"],
        env=env,
        input="ip -o addr show eth0\n",
        capture_output=True,
        text=True,
    )
    assert "9.9.9.9" in typed.stdout
    assert run(env, "alice", "--", "knothole", "--help").stdout.startswith(
        "Usage: knothole COMMAND"
    )


def test_a_place_that_is_none_and_no_lab_at_all_are_one_clear_line(
    env: dict[str, str], shell: Callable[[], subprocess.Popen[str]]
) -> None:
    nowhere = run(env, "alice", "--", "true")
    assert nowhere.returncode == 1
    assert "No lab is running" in nowhere.stderr and "knothole lab shell" in nowhere.stderr
    shell()
    nobody = run(env, "dave", "--", "true")
    assert nobody.returncode == 1
    assert re.fullmatch(r"knothole: There is no 'dave' in this lab, but .*alice.*\n", nobody.stderr)


def test_the_end_of_the_shell_ends_everything_in_the_lab(
    env: dict[str, str], tmp_path: Path, shell: Callable[[], subprocess.Popen[str]]
) -> None:
    process = shell()
    name = folders(tmp_path)[0].name
    with subprocess.Popen([*KNOTHOLE, "lab", "run", "alice", "sleep", "600"], env=env) as inside:
        wait_for(lambda: inside.pid in marked(name))
        process.communicate("exit\n", timeout=PATIENCE)
        assert inside.wait(PATIENCE) == -signal.SIGKILL
    assert not marked(name)
    assert not folders(tmp_path)


def test_kill_9_leaves_no_process_and_the_next_lab_removes_the_folder(
    env: dict[str, str], tmp_path: Path, shell: Callable[[], subprocess.Popen[str]]
) -> None:
    process = shell()
    name = folders(tmp_path)[0].name
    process.kill()
    process.wait()
    wait_for(lambda: not marked(name))
    assert "No lab is running" in run(env, "alice", "--", "true").stderr
    shell()
    assert name not in [folder.name for folder in folders(tmp_path)]


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def marked(name: str) -> list[int]:
    return [process for process, mark in sweep._marked_processes() if mark == name]

"""``knothole turn-client`` against our own server, over every way to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knothole.cli.app import run
from knothole.engine.turn.credentials import rest_credentials
from knothole.wire.server_url import ServerUrl, format_pin, parse_server_url

from ..server.conftest import ServeProgram, serving

PATIENCE = 90.0
PATIENT = (
    "from knothole.io import turn_load; turn_load.MEET_SECONDS = turn_load.LATE_SECONDS = 40.0;"
    "from knothole.cli import main; main()"
)
"""The program, but it waits longer for what is late on a busy machine."""
WAYS = ["turn:%s", "turn:%s?transport=tcp", "turns:%s", "turns:%s?transport=udp"]


@dataclass
class Site:
    """A server that runs, and what is known of it."""

    program: ServeProgram
    url: ServerUrl
    folder: Path

    @property
    def secret(self) -> Path:
        return self.folder / "data" / "turn-secret"

    @property
    def pin(self) -> str:
        assert self.url.pin is not None
        return format_pin(self.url.pin)

    def uri(self, way: str) -> str:
        return way % f"{self.url.host}:{self.url.port}"

    def ask(self, command: str, way: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
        return ask(command, self.uri(way), "--secret-file", str(self.secret), *options)


def ask(*arguments: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code, and the events on stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PATIENT, "turn-client", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONWARNINGS": "error", **variables},
    )
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("turn-client")
    with serving(folder) as start:
        program = start().ready()
        yield Site(program, parse_server_url(program.url), folder)


@pytest.mark.parametrize("way", WAYS)
def test_an_echo_comes_back_whole_over_every_way(site: Site, way: str) -> None:
    code, events = site.ask("echo", way, "--pin", site.pin)
    assert code == 0, events
    assert [event["event"] for event in events] == ["allocated"] * 2 + ["echo"] * 3
    assert [event["bytes"] for event in events[2:]] == [1, 100, 1000]
    assert all(event["rtt_ms"] > 0 for event in events[2:])
    relayed = {event["relayed"] for event in events[:2]}
    assert len(relayed) == 2
    assert events[0]["software"] == "knothole"
    assert 500 < events[0]["lifetime_seconds"] <= 600, "less if the first answer was late"


@pytest.mark.parametrize("way", WAYS)
def test_load_counts_what_arrives(site: Site, way: str) -> None:
    options = ("--allocations", "4", "--pps", "20", "--seconds", "0.5", "--size", "200")
    code, [load] = site.ask("load", way, "--pin", site.pin, *options)
    assert code == 0, load
    assert (load["allocations"], load["bytes"]) == (4, 200)
    assert 4 <= load["received"] <= load["sent"] <= 4 * 10
    assert load["received"] == load["sent"], "on loopback nothing is lost at this pace"
    assert 0 < load["p50_ms"] <= load["p95_ms"] <= load["p99_ms"]


def test_one_allocation_sends_to_itself(site: Site) -> None:
    options = ("--allocations", "1", "--pps", "20", "--seconds", "0.3")
    code, [load] = site.ask("load", WAYS[0], *options)
    assert code == 0 and load["received"] > 0


def test_a_quota_is_told_and_everything_is_given_back(site: Site) -> None:
    code, [error] = site.ask("load", WAYS[0], "--allocations", "17")
    assert code == 1
    assert "486" in error["text"]
    code, [load] = site.ask("load", WAYS[0], "--allocations", "16", "--seconds", "0.2")
    assert code == 0, load


@pytest.mark.parametrize("way", WAYS[2:])
def test_who_cannot_be_proven_is_not_believed(site: Site, way: str) -> None:
    code, [error] = site.ask("allocate", way)
    assert (code == 1 and "verify failed" in error["text"]) or "not believed" in error["text"]
    code, [error] = site.ask("allocate", way, "--pin", format_pin(bytes(32)))
    assert code == 1 and "not the pinned one" in error["text"]
    code, events = site.ask("allocate", way, "--insecure")
    assert code == 0, events


def test_a_password_comes_from_a_file_or_the_environment(site: Site, tmp_path: Path) -> None:
    secret = site.secret.read_text().split()[0]
    made = rest_credentials(secret, "somebody", 600, time.time())
    file = tmp_path / "password"
    file.write_text(made.password + "\n")
    uri = site.uri(WAYS[0])
    code, _ = ask("allocate", uri, "--username", made.username, "--password-file", str(file))
    assert code == 0
    code, _ = ask(
        "allocate", uri, "--username", made.username, KNOTHOLE_TURN_PASSWORD=made.password
    )
    assert code == 0
    code, [error] = ask("allocate", uri, "--username", made.username, KNOTHOLE_TURN_PASSWORD="x")
    assert code == 1 and "401 Unauthenticated" in error["text"]


def test_of_a_secret_file_in_rotation_the_new_secret_is_taken(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "turn-secret"
    file.write_text(f"{site.secret.read_text().strip()}\nthe secret before this one\n")
    code, events = ask("allocate", site.uri(WAYS[0]), "--secret-file", str(file))
    assert code == 0, events


def test_a_server_that_is_not_there_is_one_line(site: Site) -> None:
    code, [error] = ask(
        "allocate", "turn:127.0.0.1:1?transport=tcp", "--secret-file", str(site.secret)
    )
    assert code == 1 and error["text"].startswith("127.0.0.1:1 over TCP: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["allocate"], "URI is missing"),
        (["allocate", "http://example.org"], "no TURN server"),
        (["allocate", "stun:example.org"], "no TURN server"),
        (["allocate", "turn:a"], "--username, or --secret-file"),
        (["allocate", "turn:a", "--username", "u"], "KNOTHOLE_TURN_PASSWORD"),
        (["allocate", "turn:a", "--username", "u", "--password-file", "/none"], "cannot be read"),
        (["allocate", "turn:a", "--secret-file", "/dev/null"], "is empty"),
        (["allocate", "turn:a", "--secret-file", "SECRET", "--pin", "x"], "--pin"),
        (["allocate", "turn:a", "--secret-file", "SECRET", "--pin", "x", "--insecure"], "one of"),
        (["load", "turn:a", "--allocations", "0"], "--allocations"),
        (["load", "turn:a", "--size", "19"], "--size"),
        (["load", "turn:a", "--size", "1201"], "--size"),
        (["load", "turn:a", "--pps", "0"], "--pps"),
        (["load", "turn:a", "--seconds", "0"], "--seconds"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KNOTHOLE_TURN_PASSWORD", raising=False)
    (tmp_path / "secret").write_text("a secret")
    arguments = [str(tmp_path / "secret") if each == "SECRET" else each for each in arguments]
    assert run(["turn-client", *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1

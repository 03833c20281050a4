"""pion (Go, Debian's packages) relayed by our server: two of its PeerConnections to each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Relay

pytestmark = pytest.mark.interop

PROGRAM = Path(__file__).parent / "pion"
DEBIAN_SOURCES = "/usr/share/gocode"
BUILD_SECONDS = 400.0  # some of pion's packages are compiled anew where the cache is empty
CALL_SECONDS = 100.0


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled. Go finds packages of a version 3 from inside a GOPATH only."""
    place = tmp_path_factory.mktemp("gopath")
    shutil.copytree(PROGRAM, place / "src" / "call")
    built = place / "call"
    settings = {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
    done = subprocess.run(
        ["go", "build", "-o", str(built), "."],
        cwd=place / "src" / "call",
        env={**os.environ, **settings, "GOPATH": f"{place}:{DEBIAN_SOURCES}"},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return built


def test_two_pion_connections_talk_through_our_server(call: Path, relay: Relay) -> None:
    done = subprocess.run(
        [str(call), relay.username, relay.password, *relay.uris.values()],
        env=relay.environment,
        capture_output=True,
        text=True,
        timeout=CALL_SECONDS * len(relay.uris),
    )
    told = {each["uri"]: each for each in map(json.loads, done.stdout.splitlines())}
    for protocol, uri in relay.uris.items():
        expected = {"uri": uri, "local": "relay", "remote": "relay", "word": "a word and back"}
        assert told.get(uri) == {**expected, "relayProtocol": protocol}, done.stderr

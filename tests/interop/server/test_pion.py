"""pion (Go, Debian's packages) relayed by our server: two of its PeerConnections to each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Relay, documented

pytestmark = pytest.mark.interop

PROGRAM = Path(__file__).parent / "pion"
BUILD_SECONDS = 400.0  # pion is compiled where Go's cache is empty
CALL_SECONDS = 200.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the compiled program is. Go finds packages of a version 3 from inside a GOPATH only."""
    place = tmp_path_factory.mktemp("gopath")
    shutil.copytree(PROGRAM, place / "src" / "call")
    build, _ = documented('"$PLACE/call"')
    done = build.run({"PLACE": str(place), "GOFLAGS": ""}, BUILD_SECONDS)
    assert done.returncode == 0, done.stdout
    return place


def test_two_pion_connections_talk_through_our_server(place: Path, relay: Relay) -> None:
    _, call = documented('"$PLACE/call"')
    variables = {**relay.variables, "PLACE": str(place)}
    done = call.run(variables, CALL_SECONDS)
    assert done.returncode == 0, done.stdout
    call.check(done.stdout, variables)

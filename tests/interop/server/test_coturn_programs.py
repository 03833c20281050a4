"""coturn's programs with our server: every command of docs/interop.md, and what it says there."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ...ports import free_port
from ..echo_peer import await_echo
from .conftest import HOSTS, PATIENCE, Documented, Relay, documented

pytestmark = pytest.mark.interop

HOST, HOST_TOO, HOST6 = HOSTS
AT_ONCE = 5  # each of them waits for seconds in which it does nothing
COMMANDS = documented("turnutils_uclient", "turnutils_stunclient", "turnutils_natdiscovery")


@pytest.fixture(scope="module")
def peer_port() -> Iterator[int]:
    """coturn's echoing peer, at both hosts."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        for host in (HOST, HOST6):
            command = ["turnutils_peer", "-L", host, "-p", str(port)]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.terminate)
            await_echo(host, port)
        yield port


@pytest.fixture(scope="module")
def variables(relay: Relay, peer_port: int) -> dict[str, str]:
    return {
        **relay.variables,
        "SERVER_TOO": HOST_TOO,
        "SERVER6": HOST6,
        "OTHER_PORT": str(relay.port + 1),
        "CLIENT": HOST,
        "PEER": HOST,
        "PEER6": HOST6,
        "PEER_PORT": str(peer_port),
    }


@pytest.fixture(scope="module")
def running(
    variables: dict[str, str],
) -> Iterator[dict[Documented, Future[subprocess.CompletedProcess[str]]]]:
    """All of them, some at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {each: pool.submit(each.run, variables) for each in COMMANDS}


@pytest.mark.parametrize("documented", COMMANDS, ids=lambda each: each.command)
def test_coturns_programs_say_what_the_docs_say(running, variables, documented) -> None:
    done = running[documented].result()
    documented.check(done.stdout, variables)
    assert (done.returncode == 0) is not any("ERROR" in line for line in documented.expected)

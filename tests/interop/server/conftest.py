"""Our server as a program, with a certificate that other programs can verify, and credentials."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest

from ...certificates import write_certificates
from ...ports import free_port
from ...server.conftest import serving

ROOT = Path(__file__).parents[3]
DOC = ROOT / "docs" / "interop.md"
HOSTS = ["127.0.0.1", "127.0.0.2", "::1"]
PATIENCE = 60.0
"""Seconds after which something that should have happened has not."""


@dataclass(frozen=True)
class Documented:
    """A command line of docs/interop.md, and the lines of output that stand below it there."""

    command: str
    expected: tuple[str, ...]

    @property
    def argv(self) -> list[str]:
        """For a subprocess, which is the program itself."""
        return ["bash", "-c", f"exec {self.command}"]

    def options(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """For a subprocess of somebody who has these variables, and stands in the repository."""
        return {"env": {**os.environ, **variables}, "cwd": ROOT}

    def run(
        self, variables: Mapping[str, str], seconds: float = 3 * PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; what it prints is all in ``stdout``."""
        return subprocess.run(
            ["bash", "-c", self.command],
            **self.options(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )

    def check(self, output: str, variables: Mapping[str, str]) -> None:
        """``...`` stands for anything, a variable for its value."""
        said = [_TIME.sub("", line) for line in output.splitlines()]
        for line in self.expected:
            wanted = Template(line).safe_substitute(variables)
            pattern = ".*".join(map(re.escape, wanted.split("...")))
            assert any(re.fullmatch(pattern, each) for each in said), f"{wanted!r}\n{output}"


_TIME = re.compile(r"^\d+: : ")  # how coturn's programs begin most of their lines


def documented(*programs: str) -> list[Documented]:
    """Every command of the page that has one of these words in it."""
    found: list[Documented] = []
    for block in re.findall(r"(?:^    .+\n)+", DOC.read_text(), re.MULTILINE):
        for part in textwrap.dedent(block).replace("\\\n", "").split("$ ", 1)[1:]:
            for each in re.split(r"^\$ ", part, flags=re.MULTILINE):
                command, *expected = each.splitlines()
                found.append(Documented(command, tuple(expected)))
    chosen = [each for each in found if set(each.command.split()) & set(programs)]
    assert chosen, f"{DOC} shows no command of {programs}"
    return chosen


@dataclass(frozen=True)
class Relay:
    """A server of ours, and what a client needs to use it. ``uris`` by how they reach it."""

    uris: dict[str, str]
    username: str
    password: str
    port: int
    folder: Path
    authority: Path

    @property
    def variables(self) -> dict[str, str]:
        """Those of docs/interop.md."""
        return {
            "SERVER": HOSTS[0],
            "PORT": str(self.port),
            "USERNAME": self.username,
            "PASSWORD": self.password,
            "AUTHORITY": str(self.authority),
            "DATA": str(self.folder / "data"),
        }


@pytest.fixture(scope="package", params=["auto", "off"])
def relay(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Relay]:
    """One server on loopback for all tests here, for peers on loopback too: with the accelerator
    where it may have it, and without."""
    further = f'accelerator = "{request.param}"\nallow-peers = ["127.0.0.0/8", "::1/128"]'
    with running_relay(tmp_path_factory.mktemp("relay"), HOSTS, free_port(), further) as started:
        yield started


@contextlib.contextmanager
def running_relay(
    folder: Path,
    hosts: Sequence[str],
    port: int,
    further: str = "",
    *,
    popen: Callable[..., Any] = subprocess.Popen,
) -> Iterator[Relay]:
    """``knothole serve`` at these addresses; ``further`` lines stand under ``[relay]``."""
    authority = write_certificates(folder, hosts)
    config = folder / "server.toml"
    config.write_text(
        f'host = {json.dumps(hosts)}\nport = {port}\nname = "{hosts[0]}"\ndata = "data"\n'
        '[tls]\ncertificate = "chain.pem"\nkey = "key.pem"\n'
        f"[relay]\nallocations-per-user = 256\nmobility = true\n{further}\n"
    )
    with serving(folder) as start:
        start("--relay-only", "--config", str(config), host="", popen=popen).ready()
        account = mint(config)
        uris = {way_of(uri): uri for uri in account["uris"]}
        yield Relay(uris, account["username"], account["password"], port, folder, authority)


def way_of(uri: str) -> str:
    """UDP, TCP, TLS or DTLS, in small letters."""
    transport = uri.rpartition("=")[2]
    return {"tcp": "tls", "udp": "dtls"}[transport] if uri.startswith("turns:") else transport


def mint(config: Path) -> dict[str, Any]:
    """Credentials of that server for any client, as an operator makes them."""
    command = ["server", "credentials", "alice", "--config", str(config), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "knothole", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found

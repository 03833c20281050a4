"""A stream goes on while its path changes: relay, direct TCP, relay again, direct TCP again."""

from __future__ import annotations

import hashlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knothole.lab.netns.topology import Lab
from knothole.lab.programs import Program, knothole

pytestmark = pytest.mark.netns

PIECE = 32 * 1024
PATIENCE = 60.0
CUT = (
    "add table inet cut\n"
    "add chain inet cut between { type filter hook forward priority 0 ; policy accept ; }\n"
    "add rule inet cut between ip saddr 1.1.1.1 ip daddr 2.2.2.2 drop\n"
    "add rule inet cut between ip saddr 2.2.2.2 ip daddr 1.1.1.1 drop\n"
)


class Transfer:
    """Bob's listener and Alice's pipe; what Alice has said so far, and what Bob has got."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self._chance = random.Random(5)
        self._said = hashlib.sha256()
        self.size = 0
        self._out = (folder / "got").open("wb")
        self._pipe: subprocess.Popen[bytes]
        self._listen: subprocess.Popen[bytes]
        self._folder = folder

    def start(self, url: str) -> None:
        for name in ("alice", "bob"):
            joined = self.lab.run(
                name,
                knothole("join", name, "--server", url),
                env=self._home(name),
                timeout=PATIENCE,
            )
            assert joined.returncode == 0
        self._listen = self.lab.popen(
            "bob",
            knothole("listen", "--pipe", "--json"),
            env=self._home("bob"),
            stdout=self._out,
            stderr=subprocess.PIPE,
        )
        assert self._listen.stderr is not None
        assert b'"event"' in self._listen.stderr.readline()
        self._pipe = self.lab.popen(
            "alice", knothole("pipe", "bob"), env=self._home("alice"), stdin=subprocess.PIPE
        )

    def say(self) -> None:
        """One more piece."""
        piece = self._chance.randbytes(PIECE)
        self._said.update(piece)
        self.size += PIECE
        assert self._pipe.stdin is not None
        self._pipe.stdin.write(piece)
        self._pipe.stdin.flush()

    def say_until(self, condition: Callable[[], bool]) -> None:
        """Piece after piece, a few at a time, until ``condition`` holds and all has come."""
        until = time.monotonic() + PATIENCE
        while not condition() or self.got() < self.size:
            assert time.monotonic() < until, f"{self.got()} of {self.size} bytes"
            if self.size - self.got() < 8 * PIECE:
                self.say()
            time.sleep(0.02)

    def got(self) -> int:
        return (self._folder / "got").stat().st_size

    def end(self) -> bool:
        """Whether Bob has exactly what Alice has said."""
        assert self._pipe.stdin is not None
        self._pipe.stdin.close()
        assert self._pipe.wait(PATIENCE) == 0
        assert self._listen.wait(PATIENCE) == 0
        got = hashlib.sha256((self._folder / "got").read_bytes())
        return got.digest() == self._said.digest()

    def close(self) -> None:
        self._out.close()

    def _home(self, name: str) -> dict[str, str]:
        return {"KNOTHOLE_HOME": str(self._folder / name), "PATH": "/usr/bin:/bin"}


@pytest.fixture
def transfer(lab: Lab, tmp_path: Path) -> Iterator[Transfer]:
    server = lab.add_server(addresses=2)
    lab.add_client("alice", nat="linux+no-udp")
    lab.add_client("bob", nat="sequential")
    hosts = [word for address in server.addresses for word in ("--host", address)]
    argv = knothole("serve", *hosts, "--data", str(tmp_path / "server"), "--json")
    serving = Program(
        lab, "server", argv, {"KNOTHOLE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    )
    transfer = Transfer(lab, tmp_path)
    transfer.start(str(serving.expect("ready", timeout=PATIENCE)["url"]))
    yield transfer
    serving.close(ends_with_input=False)
    transfer.close()


def test_a_stream_loses_nothing_while_tcp_comes_and_goes(lab: Lab, transfer: Transfer) -> None:
    def carried(source: str) -> int:
        return sum(
            count.size
            for flow, count in lab.flows().items()
            if (flow.source, flow.destination) == (source, "2.2.2.2")
        )

    def grows(source: str, start: int) -> Callable[[], bool]:
        return lambda: carried(source) > start + 4 * PIECE

    transfer.say_until(grows("1.1.1.1", 0))
    lab.internet.namespace.nft(CUT)
    relayed = sum(carried(address) for address in lab.hosts["server"].addresses)
    before = transfer.size
    transfer.say_until(lambda: transfer.size > before + 16 * PIECE)
    assert sum(carried(address) for address in lab.hosts["server"].addresses) > relayed
    lab.internet.namespace.nft("delete table inet cut\n")
    transfer.say_until(grows("1.1.1.1", carried("1.1.1.1")))
    assert transfer.end()

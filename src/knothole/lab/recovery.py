"""What a line lives through: a router that forgets, a switchboard that is killed and comes back.

Real programs in namespaces, watched from outside: `knothole ping` asks every tenth of a second, and
the answers' own times tell how long there was none.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import Event, KnotholeCommands, Program, knothole
from knothole.lab.stage import START_SECONDS, Stage

INTERVAL_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 60.0  # ours: then what should come back does not, on a busy machine too
SETTLE_SECONDS: Final = 1.5  # until mappings are old
RELAYS_SECONDS: Final = 5.0  # until both ends have relays on another server, and told each other


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest time without an answer after something happened; the path before, and the one
    after, which it is given time to become again."""

    seconds: float
    before: str
    after: str


class Town(Stage):
    """A server, and Alice and Bob behind NATs, joined; Bob listens, and Alice pings him."""

    def __init__(
        self,
        folder: Path,
        *,
        nats: tuple[str, str] = ("linux", "linux"),
        one_way_ms: float = 10.0,
        serve: Sequence[str] = (),
        listen: bool = True,
    ) -> None:
        """``folder`` gets the profiles, ``serve`` are further arguments of the server; Bob listens
        with --echo, unless not ``listen``.

        Raises ProgramFailed, NamespacesUnavailable.
        """
        self._nats = dict(zip(("alice", "bob"), nats, strict=True))
        self._line = LineSettings(one_way_seconds=one_way_ms / 1000)
        self._serve_arguments = [*serve]
        self._listens = listen
        self._listener: Program | None = None
        super().__init__(Lab(), folder)

    def build(self) -> None:
        self.lab.add_server()
        for name, nat in self._nats.items():
            self.lab.add_client(name, nat=nat, line=self._line, adjustable=True)
        self._server = self.serve()
        for name in self._nats:
            self.run(name, "join", name, "--server", self.url)
        if self._listens:
            self._listener = self.start("bob", "listen", "--echo")
            self._listener.expect("ready", timeout=START_SECONDS)

    def serve(self) -> Program:
        """Start the server, on the accounts and the key there are."""
        addresses = self.lab.hosts["server"].addresses
        argv = KnotholeCommands().serve(addresses, self.folder / "server")
        program = self.launch("server", [*argv, *self._serve_arguments])
        self.url = str(program.expect("ready", timeout=START_SECONDS)["url"])
        return program

    def start(self, name: str, *arguments: str) -> Program:
        """Start ``knothole ARGUMENTS --json`` as ``name``."""
        return self.launch(name, knothole(*arguments, "--json"))

    def run(self, name: str, *arguments: str) -> int:
        """The same to its end; the exit code."""
        program = self.start(name, *arguments)
        code = program.wait(START_SECONDS)
        self.end(program)
        return code

    def ping(self) -> Program:
        """Alice's pings, once they are direct, or after a time in which they should be."""
        pings = self.start("alice", "ping", "bob", "-i", str(INTERVAL_SECONDS))
        pings.expect("pong", timeout=START_SECONDS)
        pings.find(lambda event: event.get("path") == "direct", timeout=PATIENCE_SECONDS)
        time.sleep(SETTLE_SECONDS)
        return pings

    def restart_router(self, name: str, *, new_address: bool = False) -> Gap:
        """The router in front of ``name`` forgets everything: how long the line was silent."""
        pings = self.ping()
        before = _last(pings)
        since = time.monotonic()
        self.lab.restart_nat(name, new_address=new_address)
        return self._gap(pings, before, since)

    def change_interface(self, name: str) -> Gap:
        """The computer of ``name`` gets another address in its network, and loses the old one."""
        pings = self.ping()
        before = _last(pings)
        since = time.monotonic()
        self.lab.readdress(name)
        return self._gap(pings, before, since)

    def suspend(self, seconds: float = 5.0) -> Gap:
        """Bob's program is stopped for a while: how long after it goes on the line was silent."""
        assert self._listener is not None
        pings = self.ping()
        before = _last(pings)
        self._listener.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self._listener.process.send_signal(signal.SIGCONT)
        return self._gap(pings, before, time.monotonic())

    def restart_router_after_server(self, name: str) -> Gap:
        """The server was killed and is another one, which knows nothing of the line; then the
        router in front of ``name`` forgets everything."""
        pings = self.ping()
        before = _last(pings)
        self._server.process.kill()
        self._server.wait(START_SECONDS)
        self._server = self.serve()
        self._call_until_answered()
        time.sleep(RELAYS_SECONDS)
        since = time.monotonic()
        self.lab.restart_nat(name)
        return self._gap(pings, before, since)

    def kill_server(self, away_seconds: float = 1.0) -> tuple[Gap, float]:
        """The server is killed and started again: how long a direct line was silent, and how long
        after the start Bob could be called again."""
        pings = self.ping()
        before = _last(pings)
        since = time.monotonic()
        self._server.process.kill()
        self._server.wait(START_SECONDS)
        time.sleep(away_seconds)
        self._server = self.serve()
        started = time.monotonic()
        self._call_until_answered()
        back = time.monotonic() - started
        return self._gap(pings, before, since), back

    def _call_until_answered(self) -> None:
        """Raises TimeoutError when Bob cannot be called any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.run("alice", "ping", "bob", "-c", "1"):
            if time.monotonic() > deadline:
                raise TimeoutError("Bob cannot be called any more")

    def _gap(self, pings: Program, before: Event, since: float) -> Gap:
        """Wait until answers come again for a second, and look back; then for the path of before.

        Raises TimeoutError when answers do not come again.
        """
        seen, after = [since], before
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (len(seen) > 10 and seen[-1] > since + 1.0 and seen[-1] - seen[-10] < 2.0):
            pong = _pong(pings, deadline)
            if pong is None:
                raise TimeoutError("Bob's answers do not come again")
            after = pong
            if pong["seen"] > since:
                seen.append(float(pong["seen"]))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while after["path"] != before["path"] and (pong := _pong(pings, deadline)) is not None:
            after = pong
        pings.process.terminate()
        longest = max(b - a for a, b in itertools.pairwise(seen))
        return Gap(longest, str(before["path"]), str(after["path"]))


def _pong(pings: Program, deadline: float) -> Event | None:
    """The next answer; None when none has come by then."""
    left = deadline - time.monotonic()
    return pings.find(lambda event: event["event"] == "pong", timeout=left) if left > 0 else None


def _last(pings: Program) -> Event:
    """The newest answer so far, the first being waited for."""
    newest = pings.expect("pong", timeout=START_SECONDS)
    while (pong := pings.find(lambda event: event["event"] == "pong", timeout=0.0)) is not None:
        newest = pong
    return newest

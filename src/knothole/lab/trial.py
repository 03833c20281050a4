"""One pair of clients behind two kinds of NAT: connect, measure, and judge from outside."""

from __future__ import annotations

import enum
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knothole.engine.endpoint.history import CallHistory
from knothole.lab.netns.counters import Count, Flow
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import Commands, Program, ProgramFailed
from knothole.lab.setting import Ipv6, Setting, place_pair
from knothole.lab.stage import START_SECONDS, Stage
from knothole.lab.witness import Witness
from knothole.peer.profile import Profile

__all__ = ["Run", "Setting", "Trial", "Verdict"]

_BURST_COUNT: Final = 150
_BURST_SIZE: Final = 900
_BESIDE_SHARE: Final = 0.1  # keepalives and checks by way of the relay are no payload
_DRAIN_SECONDS: Final = 0.1
_ARRIVE_SECONDS: Final = 40.0  # ours: then what is lost is not lost by a busy machine


class Verdict(enum.Enum):
    """How payload went, by where it came from."""

    DIRECT = "direct"
    RELAYED = "relayed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """One call. Seconds count from the caller's ``connect``; None is what never came.

    ``first_at_callee`` and ``first_at_caller`` are the first payload of the other end, encrypted
    and authenticated, by the programs' word. ``direct_after`` is when payload that came from no
    server had arrived at both, as their interfaces saw it. ``packets`` crossed the internet until
    both had their first payload.
    """

    caller_nat: str
    callee_nat: str
    verdict: Verdict
    first_at_callee: float | None = None
    first_at_caller: float | None = None
    direct_after: float | None = None
    packets: int = 0
    error: str = ""


class Trial(Stage):
    """A lab with a server and two joined clients, in which runs are made one after another.

    Every run starts both programs anew, so that each has fresh sockets and mappings.
    """

    def __init__(
        self, nats: tuple[str, str], commands: Commands, setting: Setting, *, seed: int = 1
    ) -> None:
        """Raises ProgramFailed when the server or a join fails, ValueError for a setting that makes
        no sense."""
        self._nats = dict(zip(("alice", "bob"), nats, strict=True))
        self._commands = commands
        self._setting = setting
        self._kept = tempfile.TemporaryDirectory(prefix="knothole-lab-")
        lab = Lab(seed=seed, ipv6=setting.ipv6 is not Ipv6.NONE)
        super().__init__(lab, Path(self._kept.name))

    def run(self, *, reverse: bool = False) -> Run:
        """Alice calls Bob, or in ``reverse`` Bob Alice."""
        caller, callee = ("bob", "alice") if reverse else ("alice", "bob")
        workers: dict[str, Program] = {}
        try:
            for name in (callee, caller):
                argv = self._commands.work(name, self.folder / name, self._url)
                workers[name] = self.launch(name, argv)
            for worker in workers.values():
                worker.expect("ready", timeout=START_SECONDS)
            return self._measure(workers, caller, callee)
        except ProgramFailed as failed:
            return Run(self._nats[caller], self._nats[callee], Verdict.FAILED, error=str(failed))
        finally:
            for worker in workers.values():
                self.end(worker)

    def history(self, name: str) -> CallHistory | None:
        """What a client has on record of its last line with the other one."""
        (other,) = self._nats.keys() - {name}
        kept = Profile.load(self.folder / name).last_lines.of(other)
        return None if kept is None else kept.history

    def close(self) -> None:
        super().close()
        self._kept.cleanup()

    def build(self) -> None:
        server = self.lab.add_server(addresses=2)
        place_pair(self.lab, self._nats, self._setting)
        serve = self._commands.serve(server.addresses, self.folder / "server-data")
        ready = self.launch("server", serve).expect("ready", timeout=START_SECONDS)
        self._url = str(ready.get("url") or ready["text"])
        for name in self._nats:
            if (argv := self._commands.join(name, self._url)) is not None:
                joining = self.launch(name, argv)
                code = joining.wait(START_SECONDS)
                words = joining.last_errors()
                self.end(joining)
                if code:
                    raise ProgramFailed(f"{name} could not join: {words}")

    def _measure(self, workers: dict[str, Program], caller: str, callee: str) -> Run:
        timeout = self._setting.timeout_seconds
        # What comes from a router's own address in the LAN has gone through its proxy.
        proxies = [f"{router.lan}.1" for router in self.lab.routers.values()]
        servers = self.lab.hosts["server"].addresses
        witness = Witness(self.lab, workers, [*servers, *proxies])
        try:
            before = self.lab.flows()
            workers[caller].tell(do="connect", to=callee, timeout=timeout)
            start = workers[caller].expect("connecting", timeout=timeout)["at"]
            at_callee = workers[callee].expect("first", timeout=timeout)["at"] - start
            at_caller = workers[caller].expect("first", timeout=timeout)["at"] - start
            crossed = _difference(self.lab.flows(), before).values()
            direct_after = witness.wait_direct(start, self._setting.settle_seconds)
            verdict = self._judge(workers, witness)
        finally:
            witness.close()
        return Run(
            self._nats[caller],
            self._nats[callee],
            verdict,
            at_callee,
            at_caller,
            direct_after,
            sum(count.packets for count in crossed),
            "" if verdict is not Verdict.FAILED else "payload did not arrive",
        )

    def _judge(self, workers: dict[str, Program], witness: Witness) -> Verdict:
        """Payload is sent both ways; whose address it comes from at the other end decides."""
        start = time.monotonic()
        line = self._setting.line
        least = _BURST_COUNT * _BURST_SIZE  # half of what is sent at once
        direct = relayed = 0
        while direct + relayed < least:  # a busy machine may lose a burst in its own buffers
            if time.monotonic() > start + _ARRIVE_SECONDS:
                return Verdict.FAILED
            for worker in workers.values():
                worker.tell(do="burst", count=_BURST_COUNT, size=_BURST_SIZE)
            for worker in workers.values():
                worker.expect("sent", timeout=self._setting.timeout_seconds)
            time.sleep(_DRAIN_SECONDS + 4 * (line.one_way_seconds + line.jitter_seconds))
            direct, relayed = witness.sizes(start)
        is_direct = relayed <= _BESIDE_SHARE * (direct + relayed)
        return Verdict.DIRECT if is_direct else Verdict.RELAYED


def _difference(after: dict[Flow, Count], before: dict[Flow, Count]) -> dict[Flow, Count]:
    return {flow: count - before.get(flow, Count()) for flow, count in after.items()}

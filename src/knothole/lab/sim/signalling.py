"""Simulated signalling between two callers: reliable, in order, and as slow as one says."""

from __future__ import annotations

from knothole.engine.ice import BETWEEN_KNOTHOLES, IceOptions, generate_credentials
from knothole.lab.sim.caller import Caller, CandidateGathered
from knothole.lab.sim.host import Program
from knothole.lab.sim.world import World
from knothole.wire.candidate import Candidate


def place_call(
    world: World,
    caller: Program[Caller],
    callee: Program[Caller],
    *,
    delay_seconds: float,
    options: IceOptions = BETWEEN_KNOTHOLES,
) -> None:
    """Let one call the other now, as knothole's switchboard does it.

    After ``delay_seconds`` the callee has the offer and, at the same moment, the caller has what is
    on file for the callee; both ends' credentials follow from the secret in the offer. Candidates
    that are gathered later trickle with the same delay. Takes the programs' ``on_event``.
    """
    one, other = (_Side(world, program, delay_seconds) for program in (caller, callee))
    one.peer, other.peer = other, one
    one.begin(controlling=True, options=options)

    def offered() -> None:
        other.begin(controlling=False, options=options)
        for side in (one, other):
            side.learn_all()

    world.after(delay_seconds, offered)


class _Side:
    peer: _Side

    def __init__(self, world: World, program: Program[Caller], delay_seconds: float) -> None:
        self.credentials = generate_credentials(world.random_bytes(program.name))
        self._world, self._program, self._delay = world, program, delay_seconds

    def begin(self, *, controlling: bool, options: IceOptions) -> None:
        self._program.call(
            lambda engine, now: engine.call(
                self.credentials, controlling=controlling, now=now, options=options
            )
        )

    def learn_all(self) -> None:
        """Learn what the peer has gathered until now; from now on tell it what is gathered."""
        self._program.on_event = self._trickle
        self._learn([candidate for candidate, _ in self.peer._program.engine.candidates])

    def _learn(self, candidates: list[Candidate]) -> None:
        remote = self.peer.credentials
        self._program.call(lambda engine, now: engine.learn(remote, candidates, now))

    def _trickle(self, event: object, now: float) -> None:
        if isinstance(event, CandidateGathered):
            candidate = event.candidate
            self._world.after(self._delay, lambda: self.peer._learn([candidate]))

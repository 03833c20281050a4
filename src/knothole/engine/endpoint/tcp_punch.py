"""TCP hole punching for one call: a simultaneous open at an agreed moment (docs/protocol/tcp.md).

One end asks. Both look at what the server sees of a fresh port, tell each other, and connect to
each other in the same instant: the asking end half a round trip after its last word, the other when
it hears it. A try that fails is made again from fresh ports: a port that was answered with a reset
stays shut.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from knothole.engine.endpoint.history import Answered, GaveUp, History, Sampled, TcpTried
from knothole.engine.endpoint.tcp_aim import Sample, TcpAim, aim_of
from knothole.engine.endpoint.tcp_events import (
    CloseTcp,
    OpenTcp,
    ProbeTcp,
    TcpClosed,
    TcpEvent,
    TcpFailed,
    TcpOpened,
    TcpProbed,
    TcpRequest,
)
from knothole.engine.endpoint.tcp_outlet import TcpOutlet
from knothole.engine.ice.agent import IceAgent
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.ice.tcp import SIMULTANEOUS_OPEN, so_candidate
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, decode_candidate, encode_candidate
from knothole.wire.malformed import MalformedMessage
from knothole.wire.prohibited import peer_prohibited
from knothole.wire.signal.tcp import MAX_AIMS, MAX_HELD_MS, TcpStep, TcpWord
from knothole.wire.signal.values import MAX_CANDIDATES

BEGIN_SECONDS: Final = 0.3  # ours: a hole for UDP would be found by then
YIELD_SECONDS: Final = 0.2  # ours: by so much the callee waits longer, so that one end asks
WORD_SECONDS: Final = 3.0  # ours: for samples and for the other end's next word
OPEN_SECONDS: Final = 1.5  # ours: a lost SYN is repeated after one second
AGAIN_SECONDS: Final = 0.2  # ours: from a try that failed to the next
LOST_SECONDS: Final = 1.0  # ours: from the loss of the path to another try
TRIES: Final = 5  # ours: in a row; a network without other traffic needs one
UNVOUCHED: Final = MAX_CANDIDATES
"""Ours: connections of one call to where only the peer says that it is."""
MAX_ROUNDS: Final = 20  # ours: in the life of a call, asked and answered


TcpPunchOutput: TypeAlias = TcpRequest | TcpWord


class _State(enum.Enum):
    IDLE = enum.auto()
    WAITING = enum.auto()  # for the moment to ask
    ASKING = enum.auto()  # asked: both ends sample
    SAMPLING = enum.auto()  # we were asked
    READY = enum.auto()  # we have said where we will be
    COUNTING = enum.auto()  # half a round trip, until the other end has heard GO
    OPENING = enum.auto()
    OVER = enum.auto()


_NEXT: Final = {
    _State.IDLE: {_State.WAITING, _State.SAMPLING, _State.OVER},
    _State.WAITING: {_State.IDLE, _State.WAITING, _State.ASKING, _State.SAMPLING, _State.OVER},
    _State.ASKING: {_State.IDLE, _State.WAITING, _State.COUNTING, _State.SAMPLING, _State.OVER},
    _State.SAMPLING: {_State.IDLE, _State.WAITING, _State.READY, _State.SAMPLING, _State.OVER},
    _State.READY: {_State.IDLE, _State.WAITING, _State.OPENING, _State.SAMPLING, _State.OVER},
    _State.COUNTING: {_State.IDLE, _State.WAITING, _State.OPENING, _State.SAMPLING, _State.OVER},
    _State.OPENING: {_State.IDLE, _State.WAITING, _State.SAMPLING, _State.OVER},
    _State.OVER: set[_State](),
}


class TcpPunch:
    """An engine whose input is words of the other end and events of io.

    ``incoming`` says that we were called: where both ends ask, the caller's question counts.
    """

    def __init__(self, call_id: bytes, incoming: bool, outlet: TcpOutlet, history: History) -> None:
        self._call_id, self._incoming = call_id, incoming
        self._outlet, self._history = outlet, history
        self._state = _State.IDLE
        self._deadline: float | None = None
        self._begun = self._direct = self._asker = False
        self._round = self._rounds = self._tries = 0
        self._asked_at = 0.0
        self._aim: TcpAim | None = None
        self._theirs: tuple[Candidate, ...] | None = None
        self._rtt_seconds = 0.0
        self._observed: frozenset[str] = frozenset()
        self._unvouched_left = UNVOUCHED
        self._streams: set[tuple[Address, Address]] = set()
        self._pair: tuple[LocalCandidate, Candidate] | None = None
        self._gone: list[Address] = []
        self._outputs: deque[TcpPunchOutput] = deque()

    # ------------------------------------------------------------------------ commands

    def begin(self, now: float) -> None:
        """The call was answered: unless a direct path is there soon, TCP is tried."""
        self._begun = True
        self._wait(now + BEGIN_SECONDS + (YIELD_SECONDS if self._incoming else 0.0))

    def vouch(self, hosts: Iterable[str]) -> None:
        """Where the server sees the other end: only there it is tried, with few exceptions."""
        self._observed = frozenset(hosts)

    def path_changed(self, direct: bool, now: float) -> None:
        """Payload takes, or does not take, a way without a relay now."""
        lost = self._direct and not direct
        self._direct = direct
        if direct and self._state is _State.WAITING:
            self._move(_State.IDLE, None)
        elif lost and self._state is _State.IDLE and self._begun:
            self._tries = 0
            self._wait(now + LOST_SECONDS)

    def heard(self, word: TcpWord, now: float) -> None:
        """A word of the other end; one that makes no sense now is ignored."""
        if not self._begun or self._state is _State.OVER:
            return
        match word.step:
            case TcpStep.ASK:
                self._asked(word.round, now)
            case TcpStep.READY if self._state is _State.ASKING and word.round == self._round:
                held = word.held_ms / 1000
                self._rtt_seconds = max(0.0, now - self._asked_at - held)
                self._theirs = _aims(word.aims)
                self._agree(now)
            case TcpStep.GO if self._state is _State.READY and word.round == self._round:
                self._theirs = _aims(word.aims)
                self._open(now)
            case _:
                pass

    def happened(self, event: TcpEvent, now: float) -> None:
        """What io tells."""
        match event:
            case TcpProbed(samples):
                self._probed(samples, now)
            case TcpOpened(local, remote):
                self._opened(local, remote, now)
            case TcpFailed(local) if self._aim is not None and local == self._aim.base:
                if self._state is _State.OPENING:
                    self._failed(now)
            case TcpClosed(local, remote) if (local, remote) in self._streams:
                self._streams.discard((local, remote))
                self._gone.append(local)
                self._outputs.append(CloseTcp(local))  # other connections of this port with it
            case _:
                pass

    def end(self) -> Iterator[TcpRequest]:
        """The call is over: what is to be closed."""
        if self._state is not _State.OVER:
            self._let_go()
            yield from (each for each in self._outputs if isinstance(each, CloseTcp))
            yield from (CloseTcp(local) for local, _ in sorted(self._streams))
            self._outputs.clear()
            self._streams.clear()
            self._move(_State.OVER, None)

    # -------------------------------------------------------------------------- engine

    def handle_timeout(self, now: float) -> None:
        if self._deadline is None or now < self._deadline:
            return
        match self._state:
            case _State.WAITING:
                self._ask(now)
            case _State.COUNTING:
                self._open(now)
            case _State.ASKING if self._theirs is None:
                self._give_up("the other end does not answer about TCP", now)
            case _State.ASKING | _State.SAMPLING:
                self._give_up("TCP does not get out to the server's ports", now)
            case _State.OPENING:
                self._failed(now)
            case _:
                self._let_go()
                self._move(_State.IDLE, None)

    def next_timeout(self) -> float | None:
        return self._deadline

    @property
    def has_news(self) -> bool:
        """Whether :meth:`settle` has something to do."""
        return bool(self._outputs or self._pair or self._gone)

    def settle(self, ice: IceAgent, now: float) -> Iterator[TcpPunchOutput]:
        """Tell ``ice`` which connections there are; then what io, and the other end, are told."""
        for base in self._gone:
            ice.remove_local_base(base, now)
        self._gone.clear()
        pair, self._pair = self._pair, None
        if pair is not None:
            ice.add_stream(*pair, now)
        while self._outputs:
            yield self._outputs.popleft()

    # -------------------------------------------------------------------------- inside

    def _wait(self, until: float) -> None:
        self._move(_State.WAITING, until)

    def _ask(self, now: float) -> None:
        if self._direct or not self._outlet.host:
            self._move(_State.IDLE, None)
        elif self._outlet.udp_works:
            self._give_up(
                "TCP is not tried: UDP gets out, and the same NATs would be in TCP's way", now
            )
        elif not self._outlet.servers:
            self._give_up("TCP is not tried: there is no server to see us", now)
        elif self._rounds >= MAX_ROUNDS:
            self._move(_State.IDLE, None)
        else:
            self._asker = True
            self._begin_round(self._round % 255 + 1, now)
            self._move(_State.ASKING, now + WORD_SECONDS)
            self._outputs.append(TcpWord(TcpStep.ASK, self._round))

    def _asked(self, number: int, now: float) -> None:
        """Where both ends have asked, the caller's question is the one that counts."""
        own = self._asker and self._state in (_State.ASKING, _State.COUNTING, _State.OPENING)
        usable = bool(self._outlet.host and self._outlet.servers)
        if (own and not self._incoming) or self._rounds >= MAX_ROUNDS or self._direct:
            return
        if not usable:
            self._outputs.append(TcpWord(TcpStep.READY, number))
            return
        self._let_go()
        self._asker = False
        self._begin_round(number, now)
        self._move(_State.SAMPLING, now + WORD_SECONDS)

    def _begin_round(self, number: int, now: float) -> None:
        self._round, self._asked_at = number, now
        self._rounds += 1
        self._aim = self._theirs = None
        self._outputs.append(ProbeTcp(self._call_id, self._outlet.host, self._outlet.servers))

    def _probed(self, samples: tuple[Sample, ...], now: float) -> None:
        if self._state not in (_State.ASKING, _State.SAMPLING) or self._aim is not None:
            self._outputs.extend(CloseTcp(sample.local) for sample in samples[:1])
            return
        for sample in samples:
            self._history.note(Sampled(sample.mapped), now)
        self._aim = aim_of(samples)
        if self._aim is None:
            self._outputs.extend(CloseTcp(sample.local) for sample in samples[:1])
        if self._state is _State.SAMPLING:
            held = min(MAX_HELD_MS, round((now - self._asked_at) * 1000))
            self._outputs.append(TcpWord(TcpStep.READY, self._round, self._lines(), held))
            if self._aim is not None:
                self._move(_State.READY, now + WORD_SECONDS)
                return
        if self._aim is None:
            why = "our NAT's port cannot be foretold" if samples else "TCP does not get out"
            self._give_up(f"TCP hole punching: {why}", now)
        else:
            self._agree(now)

    def _agree(self, now: float) -> None:
        """Both ends know where they will be: say GO, and let half a round trip pass."""
        if self._theirs is None:
            return
        if not self._theirs:
            self._give_up(
                "TCP hole punching: the other end cannot say where it would come from", now
            )
        elif self._aim is not None:
            self._outputs.append(TcpWord(TcpStep.GO, self._round, self._lines()))
            self._move(_State.COUNTING, now + self._rtt_seconds / 2)

    def _open(self, now: float) -> None:
        assert self._aim is not None
        theirs = [each for each in self._theirs or () if may_be_tried(each, self._aim.base)]
        theirs = self._vouched(theirs)
        if not theirs:
            self._give_up("TCP hole punching: the other end names no address to be tried", now)
            return
        base, host = self._aim.base, theirs[0].address.host
        # An end that counts takes its ports in order: the nth connection goes from our nth to
        # their nth. Who keeps one port tries every port the other may have.
        remotes = tuple(each.address for each in theirs if each.address.host == host)[:MAX_AIMS]
        self._history.note(TcpTried(SIMULTANEOUS_OPEN, len(remotes), host), now)
        self._outputs.append(OpenTcp(self._call_id, base, remotes, OPEN_SECONDS))
        self._move(_State.OPENING, now + OPEN_SECONDS + AGAIN_SECONDS)

    def _vouched(self, aims: list[Candidate]) -> list[Candidate]:
        """Those that the server vouches for too: neither a peer nor a server that lies makes us
        knock at somebody else's door. Where the server does not see the peer by this address
        family, so many as there may be ordinary candidates."""
        if not aims:
            return []
        family = aims[0].address.is_ipv6
        seen = {host for host in self._observed if (":" in host) is family}
        if seen:
            return [each for each in aims if each.address.host in seen]
        granted = aims[: min(MAX_AIMS, self._unvouched_left)]
        self._unvouched_left -= len(granted)
        return granted

    def _opened(self, local: Address, remote: Address, now: float) -> None:
        aim = self._aim
        if any(base == local for base, _ in self._streams):
            return  # one connection of a base is enough, and the other end keeps this one as well
        if self._state is _State.OVER or aim is None or local != aim.base:
            self._outputs.append(CloseTcp(local))
            return
        # What a path that was lost has left is of no use any more.
        for old in sorted(self._streams):
            self._outputs.append(CloseTcp(old[0]))
            self._gone.append(old[0])
        self._streams = {(local, remote)}
        self._history.note(Answered("TCP simultaneous open", remote), now)
        theirs = [each for each in self._theirs or () if each.address == remote]
        candidate = theirs[0] if theirs else so_candidate(remote, remote)
        ours = LocalCandidate(so_candidate(aim.addresses[0], local), local)
        self._pair = (ours, candidate)
        if self._state is _State.OPENING:
            self._tries = 0
            self._move(_State.IDLE, None)

    def _failed(self, now: float) -> None:
        self._let_go()
        self._tries += 1
        if not self._asker:
            self._move(_State.IDLE, None)
        elif self._tries >= TRIES:
            self._give_up(f"TCP hole punching failed {self._tries} times", now)
        else:
            self._wait(now + AGAIN_SECONDS)

    def _give_up(self, reason: str, now: float) -> None:
        self._let_go()
        self._history.note(GaveUp(reason), now)
        self._move(_State.IDLE, None)

    def _let_go(self) -> None:
        """The port of a round that came to nothing is never used again."""
        if self._aim is not None and self._aim.base not in {local for local, _ in self._streams}:
            self._outputs.append(CloseTcp(self._aim.base))
        self._aim = self._theirs = None

    def _lines(self) -> tuple[str, ...]:
        if self._aim is None:
            return ()
        base = self._aim.base
        candidates = (so_candidate(address, base) for address in self._aim.addresses)
        return tuple(encode_candidate(candidate) for candidate in candidates)

    def _move(self, state: _State, deadline: float | None) -> None:
        """The one place where the state changes."""
        if state not in _NEXT[self._state] and state is not self._state:
            raise AssertionError(f"TCP punching does not go from {self._state} to {state}")
        self._state, self._deadline = state, deadline


def may_be_tried(candidate: Candidate, base: Address) -> bool:
    """Whether a connection may be begun to where the peer says that it will be."""
    address = candidate.address
    if (candidate.transport, candidate.tcp_type) != ("tcp", SIMULTANEOUS_OPEN):
        return False
    return (
        address.is_ipv6 is base.is_ipv6 and address.port > 0 and not peer_prohibited(address.host)
    )


def _aims(lines: tuple[str, ...]) -> tuple[Candidate, ...]:
    found = []
    for line in lines:
        try:
            found.append(decode_candidate(line))
        except MalformedMessage:
            continue  # RFC 8839 Section 5.1: what is not understood is ignored
    return tuple(found)

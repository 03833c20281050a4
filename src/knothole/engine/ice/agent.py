"""The ICE agent: one data stream with one component (RFC 8445, 8838, 8863, 7675)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

from knothole.engine.core import Datagram, RandomBytes, least
from knothole.engine.ice.candidates import LocalCandidates
from knothole.engine.ice.credentials import IceCredentials, split_username
from knothole.engine.ice.events import BestPairChanged, IceOutput, RoleChanged
from knothole.engine.ice.options import BETWEEN_KNOTHOLES, STANDARD, IceOptions
from knothole.engine.ice.pair import CandidatePair, LocalCandidate, Pair
from knothole.engine.ice.role import Role
from knothole.engine.ice.session import Session
from knothole.engine.ice.stray import STRAY_PRIORITY, stray_check
from knothole.engine.ice.tally import CheckCount, Tally
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    Username,
    decode,
    looks_like_stun,
)

TIE_BREAKER_BYTES: Final = 8  # RFC 8445 Section 16.1: 64 bits

# RFC 8445 Section 8.3.1: "SHOULD wait an additional three seconds" before what is left behind ends.
FAREWELL_SECONDS: Final = 3.0

# Ours: candidates of the peer's next generation that came before its credentials.
MAX_EARLY_CANDIDATES: Final = 64


def agent_between_knotholes(
    local: IceCredentials, incoming: bool, random: RandomBytes, now: float
) -> IceAgent:
    """The agent of a call between two knotholes; the caller's is controlling."""
    return IceAgent(
        controlling=not incoming,
        local=local,
        tie_breaker=int.from_bytes(random(TIE_BREAKER_BYTES), "big"),
        random=random,
        now=now,
        options=BETWEEN_KNOTHOLES,
    )


class IceAgent:
    """Finds and keeps a way to one peer.

    A sans-IO engine: candidates and credentials come in any order and at any time, Transmit goes
    out, and the events of :mod:`knothole.engine.ice.events` tell what happened. Payload is the
    owner's: it goes from ``best_pair.base`` to ``best_pair.remote_address`` and is accepted from
    where :meth:`is_authenticated_remote` says. A relayed candidate's base is the relayed address
    itself, so a Transmit with such a source is for the TURN client.
    """

    def __init__(
        self,
        *,
        controlling: bool,
        local: IceCredentials,
        tie_breaker: int,
        random: RandomBytes,
        now: float,
        options: IceOptions = STANDARD,
    ) -> None:
        self._role = Role(controlling, tie_breaker, random)
        self._announced_controlling = controlling
        self._options = options
        self._random = random
        self._locals = LocalCandidates()
        self._tally = Tally()
        self._current = self._session(local)
        self._previous: Session | None = None
        self._farewell_at: float | None = None
        self._peer_restart: IceCredentials | None = None
        self._early_candidates: list[Candidate] = []
        self._best: Pair | None = None
        self._outputs: deque[IceOutput] = deque()
        self._deadline: float | None = None

    @property
    def controlling(self) -> bool:
        return self._role.controlling

    @property
    def local_credentials(self) -> IceCredentials:
        return self._current.local

    @property
    def remote_credentials(self) -> IceCredentials | None:
        return self._current.remote

    @property
    def failed(self) -> bool:
        """Whether IceFailed was the last word."""
        return self._current.failed

    @property
    def best_pair(self) -> Pair | None:
        """Where payload goes: by the standard the nominated pair as soon as there is one, between
        knotholes the pair of the highest priority that answers."""
        return self._best

    @property
    def selected_pair(self) -> Pair | None:
        """The nominated pair that is still valid."""
        pairs = (pair for pair in self._current.valid_pairs() if pair.nominated)
        selected = max(pairs, key=lambda pair: pair.priority, default=None)
        return None if selected is None else selected.snapshot(self._role.controlling)

    @property
    def valid_pairs(self) -> tuple[Pair, ...]:
        """All pairs that payload may be sent on, best first."""
        return tuple(pair.snapshot(self._role.controlling) for pair in self._current.valid_pairs())

    @property
    def remote_candidates(self) -> tuple[Candidate, ...]:
        """What the peer has signalled in this generation and is still worth a check."""
        return tuple(self._current.remotes.signalled())

    @property
    def check_counts(self) -> tuple[CheckCount, ...]:
        """How many checks of ours were sent and answered, by kinds of candidates."""
        return self._tally.counts()

    @property
    def heard_at(self) -> float:
        """When the peer last answered a check of ours; minus infinity before the first time."""
        return max(session.heard_at for session in self._sessions())

    def is_authenticated_remote(self, base: Address, remote: Address) -> bool:
        """Whether the peer proved, by a check or an answer with the right integrity, that it is
        behind ``remote`` as seen from ``base``."""
        best = self._best
        if best is not None and best.remote_address == remote and best.base == base:
            return True
        return any(session.is_authenticated(base, remote) for session in self._sessions())

    def add_local_candidate(self, candidate: Candidate, base: Address, now: float) -> None:
        """A candidate was gathered; ``base`` is where it is sent from, for a relayed candidate its
        own address. Raises ValueError unless it is UDP and component 1."""
        added = self._locals.add(candidate, base)
        if added is not None:
            self._current.local_added(added, now)
            self._settle(now)

    def add_stream(self, local: LocalCandidate, remote: Candidate, now: float) -> None:
        """A connection to the peer is open: a pair of its own, until :meth:`remove_local_base`.

        Raises ValueError when something is sent from ``local.base`` already.
        """
        if self._locals.best_of(local.base) is not None:
            raise ValueError(f"{local.base} is a base already")
        self._locals.add_stream(local, remote)
        self._current.stream_added(local, remote, now)
        self._settle(now)

    def retain_local_candidates(self, gathered: Collection[tuple[Address, Address]]) -> None:
        """Of the candidates that were added only these, as address and base, are still true: a NAT
        has another mapping now. Their bases stay, see :meth:`remove_local_base`."""
        self._locals.retain(gathered)

    def end_of_local_candidates(self, now: float) -> None:
        """Nothing more will be gathered in this generation."""
        self._current.end_of_candidates("local", now)
        self._settle(now)

    def remove_local_base(self, base: Address, now: float) -> None:
        """The interface, or the allocation, behind ``base`` is gone."""
        if self._locals.remove_base(base):
            for session in self._sessions():
                session.remove_base(base, now)
            self._settle(now)

    def set_remote_credentials(self, credentials: IceCredentials, now: float) -> None:
        """The peer's fragment and password: checks begin. Other ones than before are an ICE restart
        by the peer (see :meth:`remote_restart`)."""
        known = self._current.remote
        if known == credentials:
            return
        if known is not None:
            self._peer_restart = credentials
            return
        self._current.set_remote(credentials, now)
        early, self._early_candidates = self._early_candidates, []
        for candidate in early:
            self.add_remote_candidate(candidate, now)
        self._settle(now)

    def add_remote_candidate(self, candidate: Candidate, now: float) -> None:
        """A candidate of the peer's, before or after its credentials. One that names another
        username fragment (RFC 8838 Section 9) waits for those."""
        remote = self._current.remote
        if candidate.ufrag is not None and (remote is None or candidate.ufrag != remote.ufrag):
            if len(self._early_candidates) < MAX_EARLY_CANDIDATES:
                self._early_candidates.append(candidate)
            return
        self._current.add_remote(candidate, now)
        self._settle(now)

    def end_of_remote_candidates(self, now: float) -> None:
        """The peer said that it has no more candidates in this generation."""
        self._current.end_of_candidates("remote", now)
        self._settle(now)

    def restart(self, local: IceCredentials, now: float) -> None:
        """Begin an ICE restart, or join the peer's (RFC 8445 Section 9).

        Our candidates stay; the peer's come anew. Payload stays where it is until the new session
        has something better, or the old pair dies. Raises ValueError unless the fragment and the
        password are both new.
        """
        old = self._current.local
        if local.ufrag == old.ufrag or local.password == old.password:
            raise ValueError("an ICE restart changes both the username fragment and the password")
        if self._current.valid_pairs() or self._previous is None:
            self._current.retire()
            self._previous = self._current
        self._farewell_at = None
        self._current = self._session(local)
        for stream in self._locals.streams:
            self._current.stream_added(*stream, now)
        restarted, self._peer_restart = self._peer_restart, None
        if restarted is not None:
            self.set_remote_credentials(restarted, now)
        self._settle(now)

    def remote_restart(self, credentials: IceCredentials, now: float) -> None:
        """The peer restarted, or answered our restart, with these credentials.

        When we have not restarted ourselves yet, they wait for our :meth:`restart`, which must
        follow.
        """
        self.set_remote_credentials(credentials, now)

    def probe(self, now: float) -> None:
        """The owner doubts the best pair: check it at once, and between knotholes every other pair
        too. If it does not answer within half a second, payload moves to one that does."""
        for session in self._sessions():
            session.probe(now)
        self._settle(now)

    def stray_check(self) -> bytes | None:
        """A check that the owner may send from any socket to any port where the peer may be, see
        :mod:`knothole.engine.ice.stray`; None before the peer's credentials are known."""
        session = self._current
        if session.remote is None:
            return None
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        return stray_check(
            session.local, session.remote, self._role.attribute, STRAY_PRIORITY, transaction_id
        )

    def confirm(self, now: float) -> None:
        """The owner hears nothing where it heard something: one consent check on the best pair.

        Between knotholes the pair is probed, and the best relayed pair as well. Without an answer
        it is doubted, sooner if the other one answers.
        """
        self._current.confirm(now)
        self._settle(now)

    def accepts(self, datagram: Datagram) -> bool:
        """Whether ``datagram`` is a STUN message for this agent and not another's: a check with our
        username fragment, or the answer to a check of ours. Of a burst the first one counts."""
        payload = next(datagram.segments())
        if not looks_like_stun(payload):
            return False
        try:
            message = decode(payload)
        except MalformedMessage:
            return False
        return message.method == Method.BINDING and self._session_of(message) is not None

    def receive(self, datagram: Datagram, now: float) -> None:
        """Take STUN messages; anything else, and what is not for us, changes nothing."""
        for payload in datagram.segments():
            try:
                message = decode(payload)
            except MalformedMessage:
                continue
            session = self._session_of(message)
            if session is None or message.method != Method.BINDING:
                continue
            part = datagram._replace(payload=payload, segment_size=0)
            check = session.find_check(message.transaction_id)
            if message.message_class is MessageClass.REQUEST:
                session.receive_request(message, part, now)
            elif check is not None:
                session.receive_response(check, message, part, now)
        self._settle(now)

    def handle_timeout(self, now: float) -> None:
        if self._farewell_at is not None and now >= self._farewell_at:
            self._previous = self._farewell_at = None
        for session in self._sessions():
            session.handle_timeout(now)
        self._settle(now)

    def next_timeout(self) -> float | None:
        return self._deadline

    def outputs(self) -> Iterator[IceOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _session(self, local: IceCredentials) -> Session:
        return Session(local, self._role, self._locals, self._options, self._random, self._tally)

    def _sessions(self) -> list[Session]:
        return [each for each in (self._current, self._previous) if each is not None]

    def _session_of(self, message: Message) -> Session | None:
        for session in self._sessions():
            if message.message_class is MessageClass.REQUEST:
                username = message.get(Username)
                fragments = split_username(username.value) if username else None
                if fragments and fragments[0] == session.local.ufrag:
                    return session
            elif session.find_check(message.transaction_id) is not None:
                return session
        return None

    def _choose(self) -> CandidatePair | None:
        """The best pair of both sessions; the old one's keeps payload until the new one's is
        nominated or better (RFC 8445 Section 12.1)."""
        new = next(iter(self._current.valid_pairs()), None)
        old = next(iter(self._previous.valid_pairs()), None) if self._previous else None
        if new is None or old is None:
            return new or old
        controlling = self._role.controlling
        better = self._options.continuous and (
            old.doubted or new.valid_priority(controlling) >= old.valid_priority(controlling)
        )
        return new if new.nominated or better else old

    def _settle(self, now: float) -> None:
        """Collect what the sessions put out, and tell what changed as a whole."""
        if self._announced_controlling is not self._role.controlling:
            self._announced_controlling = self._role.controlling
            self._outputs.append(RoleChanged(self._role.controlling))
            for session in self._sessions():
                session.role_changed(now)
        for session in self._sessions():
            self._outputs.extend(session.outputs())
        chosen = self._choose()
        best = None if chosen is None else chosen.snapshot(self._role.controlling)
        if best != self._best:
            self._outputs.append(BestPairChanged(best))
        self._best = best
        if (
            self._previous is not None
            and self._farewell_at is None
            and (self.selected_pair is not None or not self._previous.valid_pairs())
        ):
            self._farewell_at = now + FAREWELL_SECONDS
        self._deadline = least(
            self._farewell_at, *(session.next_timeout() for session in self._sessions())
        )

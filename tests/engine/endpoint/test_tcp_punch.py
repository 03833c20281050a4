"""Two ends agree on a moment for a simultaneous open, over a line with a delay."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from knothole.engine.endpoint.history import AnyStep, GaveUp, History, TcpTried
from knothole.engine.endpoint.relays import TurnServer
from knothole.engine.endpoint.tcp_aim import Sample
from knothole.engine.endpoint.tcp_events import (
    CloseTcp,
    OpenTcp,
    ProbeTcp,
    TcpClosed,
    TcpFailed,
    TcpOpened,
    TcpProbed,
)
from knothole.engine.endpoint.tcp_outlet import TcpOutlet, tcp_servers
from knothole.engine.endpoint.tcp_punch import (
    MAX_ROUNDS,
    TRIES,
    UNVOUCHED,
    TcpPunch,
)
from knothole.engine.ice import BETWEEN_KNOTHOLES, IceAgent, generate_credentials
from knothole.engine.ice.tcp import so_candidate
from knothole.engine.turn.credentials import Credentials
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import encode_candidate
from knothole.wire.signal.tcp import TcpStep, TcpWord

SERVERS = (Address("3.3.3.3", 3478), Address("3.3.3.3", 443))
DELAY = 0.02  # one way between the ends, by the server


class End:
    """One end and its io: ``mapped`` says how the server sees the nth connection."""

    def __init__(self, net: Net, name: str, host: str, *, incoming: bool) -> None:
        self.net, self.host = net, host
        self.outlet = TcpOutlet(f"192.168.{len(name)}.1", SERVERS, udp_works=False)
        self.history = History(0.0)
        self.punch = TcpPunch(b"call", incoming, self.outlet, self.history)
        self.mapped: Callable[[int, int], int | None] = lambda local, nth: local
        self.opened_at: list[float] = []
        self.requests: list[OpenTcp] = []
        self.closed: list[Address] = []
        self.words: list[TcpWord] = []
        self.ice = IceAgent(
            controlling=not incoming,
            local=generate_credentials(random.Random(1).randbytes),
            tie_breaker=1,
            random=random.Random(2).randbytes,
            now=0.0,
            options=BETWEEN_KNOTHOLES,
        )
        self._locals = itertools.count(40_000)
        self._connections = itertools.count()

    def settle(self) -> None:
        for output in list(self.punch.settle(self.ice, self.net.now)):
            match output:
                case TcpWord():
                    self.words.append(output)
                    self.net.carry(self, output)
                case ProbeTcp(_, host, servers):
                    local = Address(host, next(self._locals))
                    ports = [self.mapped(local.port, next(self._connections)) for _ in servers]
                    samples = tuple(
                        Sample(local, server, Address(self.host, port))
                        for server, port in zip(servers, ports, strict=True)
                        if port is not None
                    )
                    self.net.later(0.01, lambda s=samples: self.happened(TcpProbed(s)))
                case OpenTcp():
                    self.opened_at.append(self.net.now)
                    self.requests.append(output)
                    self.net.opening(self, output)
                case CloseTcp(local):
                    self.closed.append(local)

    def happened(self, event: object) -> None:
        self.punch.happened(event, self.net.now)  # type: ignore[arg-type]
        self.settle()

    def steps(self, kind: type[AnyStep]) -> list[AnyStep]:
        return [noted.step for noted in self.history.steps if isinstance(noted.step, kind)]


class Net:
    """Carries words with a delay; ``opens`` says whether a try of both ends succeeds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alice = End(self, "alice", "1.1.1.1", incoming=False)
        self.bob = End(self, "bob", "2.2.2.2", incoming=True)
        self.opens = True
        self.swallows: Callable[[TcpWord], bool] = lambda word: False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def begin(self) -> None:
        for end in (self.alice, self.bob):
            end.punch.begin(self.now)
            end.settle()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), do))

    def carry(self, sender: End, word: TcpWord) -> None:
        other = self.bob if sender is self.alice else self.alice

        def arrive() -> None:
            other.punch.heard(word, self.now)
            other.settle()

        if not self.swallows(word):
            self.later(DELAY, arrive)

    def opening(self, end: End, request: OpenTcp) -> None:
        event = (
            TcpOpened(request.local, request.remotes[0]) if self.opens else TcpFailed(request.local)
        )
        self.later(DELAY, lambda: end.happened(event))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            due = [end.punch.next_timeout() for end in (self.alice, self.bob)]
            times = [at for at in due if at is not None] + [e[0] for e in self._events[:1]]
            if not times or min(times) > until:
                self.now = until
                return
            self.now = max(self.now, min(times))
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for end in (self.alice, self.bob):
                end.punch.handle_timeout(self.now)
                end.settle()


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.mark.parametrize("asks", ["alice", "bob", "both"])
def test_both_ends_connect_in_the_same_instant_to_where_the_other_said(net: Net, asks: str) -> None:
    net.alice.outlet.udp_works = asks == "bob"
    net.bob.outlet.udp_works = asks == "alice"
    net.begin()
    net.run(2.0)
    [at_alice], [at_bob] = net.alice.opened_at, net.bob.opened_at
    assert at_alice == pytest.approx(at_bob)
    [to_bob], [to_alice] = net.alice.requests, net.bob.requests
    assert to_bob.remotes == (Address("2.2.2.2", 40_000),)
    assert to_alice.remotes == (Address("1.1.1.1", 40_000),)
    assert sum(word.step is TcpStep.GO for word in net.alice.words + net.bob.words) == 1


def test_where_both_ask_at_once_the_callers_question_counts(net: Net) -> None:
    net.begin()
    net.bob.punch._deadline = net.alice.punch.next_timeout()
    net.run(2.0)
    assert [word.step for word in net.alice.words] == [TcpStep.ASK, TcpStep.GO]
    assert len(net.alice.requests) == len(net.bob.requests) == 1


def test_the_connection_becomes_a_pair_of_ice_and_goes_with_it(net: Net) -> None:
    net.begin()
    net.run(2.0)
    [opened] = net.alice.requests
    net.alice.ice.set_remote_credentials(net.bob.ice.local_credentials, net.now)
    sent = [o.datagram for o in net.alice.ice.outputs() if hasattr(o, "datagram")]
    assert [(d.source, d.destination, d.transport) for d in sent] == [
        (opened.local, opened.remotes[0], Transport.TCP)
    ]
    net.alice.happened(TcpClosed(opened.local, opened.remotes[0]))
    net.run(2.0)
    assert not [o for o in net.alice.ice.outputs() if hasattr(o, "datagram")]


def test_udp_that_gets_out_makes_tcp_needless_and_the_history_says_so(net: Net) -> None:
    net.alice.outlet.udp_works = net.bob.outlet.udp_works = True
    net.begin()
    net.run(10.0)
    assert not net.alice.words + net.bob.words
    [step] = net.alice.steps(GaveUp)
    assert "UDP gets out" in str(step)


def test_a_direct_path_makes_tcp_needless(net: Net) -> None:
    net.begin()
    for end in (net.alice, net.bob):
        end.punch.path_changed(direct=True, now=0.1)
    net.run(10.0)
    assert not net.alice.words + net.bob.words
    assert not net.alice.history.steps


def test_a_direct_path_that_is_lost_is_tried_anew(net: Net) -> None:
    net.begin()
    net.run(2.0)
    for end in (net.alice, net.bob):
        end.punch.path_changed(direct=True, now=net.now)
        end.punch.path_changed(direct=False, now=net.now)
    net.run(3.0)
    assert len(net.alice.requests) == 2
    assert net.alice.requests[0].local in net.alice.closed, "what was left of the old one"


def test_a_try_that_fails_is_made_again_from_fresh_ports_a_few_times(net: Net) -> None:
    net.opens = False
    net.begin()
    net.run(60.0)
    locals_ = [request.local for request in net.alice.requests]
    assert len(locals_) == len(set(locals_)) == TRIES
    assert set(locals_) <= set(net.alice.closed)
    assert "failed" in str(net.alice.steps(GaveUp)[-1])
    assert sum(step.count for step in net.alice.steps(TcpTried)) == TRIES


def test_who_keeps_its_port_tries_all_that_a_counting_nat_may_give_the_other(net: Net) -> None:
    net.bob.mapped = lambda local, nth: 30_001 + nth
    net.begin()
    net.run(2.0)
    [to_bob], [to_alice] = net.alice.requests, net.bob.requests
    assert [address.port for address in to_bob.remotes] == [30_003, 30_004, 30_005]
    assert len(to_alice.remotes) == 1


def test_chance_at_the_other_end_is_told_and_ends_it(net: Net) -> None:
    chance = random.Random(3)
    net.bob.mapped = lambda local, nth: chance.randrange(1024, 65536)
    net.begin()
    net.run(10.0)
    assert not net.alice.requests + net.bob.requests
    assert "cannot say" in str(net.alice.steps(GaveUp)[-1])


def test_an_end_whose_tcp_does_not_get_out_says_so(net: Net) -> None:
    net.bob.mapped = lambda local, nth: None
    net.begin()
    net.run(10.0)
    assert not net.alice.requests
    assert net.alice.steps(GaveUp)


def test_an_end_that_does_not_know_tcp_is_asked_once(net: Net) -> None:
    net.swallows = lambda word: True
    net.bob.outlet.udp_works = True
    net.begin()
    net.run(60.0)
    assert [word.step for word in net.alice.words] == [TcpStep.ASK]
    assert "does not answer" in str(net.alice.steps(GaveUp)[-1])
    assert net.alice.closed, "the port that was looked at is given back"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.5", "224.0.0.1", "255.255.255.255"])
def test_a_peer_cannot_send_us_to_where_no_peer_is(net: Net, host: str) -> None:
    net.bob.host = host
    net.begin()
    net.run(10.0)
    assert not net.alice.requests


def test_a_peer_cannot_make_us_try_many_addresses_or_for_ever(net: Net) -> None:
    """Four ports of one host a round, and so many rounds in the life of a call."""
    net.bob.outlet.udp_works = True
    net.alice.outlet.udp_works = True
    net.opens = False
    net.begin()
    aims = tuple(
        encode_candidate(so_candidate(Address(f"5.5.5.{n}", 80 + n), Address("10.0.0.1", 1)))
        for n in range(4)
    )
    for number in range(1, 100):
        for word in (TcpWord(TcpStep.ASK, number), TcpWord(TcpStep.GO, number, aims)):
            net.alice.punch.heard(word, net.now)
            net.alice.settle()
            net.run(0.1)
    assert len(net.alice.requests) <= MAX_ROUNDS
    assert {a.host for r in net.alice.requests for a in r.remotes} == {"5.5.5.0"}
    assert sum(len(r.remotes) for r in net.alice.requests) <= UNVOUCHED


def test_a_peer_that_lies_about_its_address_is_not_believed(net: Net) -> None:
    """The server sees it elsewhere; and the server alone cannot send us anywhere."""
    net.alice.punch.vouch(["6.6.6.6"])
    net.begin()
    net.run(30.0)
    assert not net.alice.requests
    assert "no address to be tried" in str(net.alice.steps(GaveUp)[-1])


def test_a_peer_that_the_server_sees_where_it_says_is_tried_as_often_as_is_useful(net: Net) -> None:
    net.alice.punch.vouch(["2.2.2.2", "2a00::2"])
    net.begin()
    net.run(2.0)
    assert len(net.alice.requests) == 1


def test_a_second_connection_of_a_port_in_use_does_not_close_the_first(net: Net) -> None:
    """One port, two remote ports of the other end: the second comes when the round is over."""
    net.begin()
    net.run(2.0)
    [opened] = net.alice.requests
    net.alice.punch.heard(TcpWord(TcpStep.ASK, 9), net.now)
    net.alice.happened(TcpOpened(opened.local, Address("2.2.2.2", 9)))
    assert opened.local not in net.alice.closed


def test_with_the_connection_in_use_all_others_of_its_port_are_closed(net: Net) -> None:
    net.begin()
    net.run(2.0)
    [opened] = net.alice.requests
    net.alice.happened(TcpOpened(opened.local, Address("2.2.2.2", 9)))
    net.alice.happened(TcpClosed(opened.local, opened.remotes[0]))
    assert opened.local in net.alice.closed


def test_words_before_the_call_is_answered_are_not_heard(net: Net) -> None:
    net.alice.punch.heard(TcpWord(TcpStep.ASK, 1), 0.0)
    net.alice.settle()
    assert not net.alice.words


def test_the_end_of_the_call_closes_everything(net: Net) -> None:
    net.begin()
    net.run(2.0)
    [opened] = net.alice.requests
    assert CloseTcp(opened.local) in list(net.alice.punch.end())
    net.alice.punch.heard(TcpWord(TcpStep.ASK, 9), net.now)
    assert net.alice.punch.next_timeout() is None
    late = TcpOpened(Address("192.168.5.1", 4711), Address("2.2.2.2", 1))
    net.alice.happened(late)
    assert net.alice.closed[-1] == late.local


def test_only_the_switchboards_own_relays_are_asked_and_443_last() -> None:
    credentials = Credentials("a", "b")
    relays = [
        TurnServer(Address("3.3.3.3", 3478), Transport.UDP, credentials),
        TurnServer(Address("3.3.3.3", 443), Transport.TLS, credentials),
        TurnServer(Address("3.3.3.3", 3478), Transport.TLS, credentials),
        TurnServer(Address("3.3.3.3", 3478), Transport.TCP, credentials),
        TurnServer(Address("4.4.4.4", 3478), Transport.TCP, credentials, "turn.example.org"),
    ]
    assert tcp_servers(relays) == SERVERS


def test_who_wants_a_relay_only_shows_no_address_and_says_so_at_once(net: Net) -> None:
    net.bob.outlet.host, net.bob.outlet.servers = "", ()
    net.begin()
    net.run(10.0)
    assert net.bob.words == [TcpWord(TcpStep.READY, 1)]
    assert not net.alice.requests + net.bob.requests

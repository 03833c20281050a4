"""The Binding client against a scripted server, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from knothole.engine.core import Datagram, Transmit
from knothole.engine.stun.client import (
    BindingClient,
    BindingFailed,
    BindingOutput,
    MappedAddressChanged,
    MappedAddressLearned,
)
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    Attribute,
    ErrorCode,
    MappedAddress,
    Message,
    MessageClass,
    Software,
    UnknownAttribute,
    XorMappedAddress,
    decode,
    encode,
)

BASE, SERVER = Address("10.0.0.2", 5000), Address("192.0.2.1", 3478)
MAPPED, OTHER = Address("203.0.113.7", 40000), Address("203.0.113.7", 40001)
ONE_WAY = 0.03125  # exactly representable, so that times can be compared

Answer = Callable[[float, Message], tuple[MessageClass, tuple[Attribute, ...]] | None]


def counted_ids() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def mapped(address: Address) -> Answer:
    return lambda _now, _request: (MessageClass.SUCCESS, (XorMappedAddress(address),))


def nothing(_now: float, _request: Message) -> None:
    return None


def error(code: int) -> Answer:
    return lambda _now, _request: (MessageClass.ERROR, (ErrorCode(code, "no"),))


class Line:
    """One client, one server that answers by ``answer``, a delay; wakes when asked to."""

    def __init__(self, answer: Answer, **options: object) -> None:
        self.answer = answer
        self.now = 0.0
        self.requests: list[float] = []
        self.events: list[tuple[float, BindingOutput]] = []
        self.in_flight: list[tuple[float, Datagram]] = []
        self.client = BindingClient(BASE, SERVER, random=counted_ids(), now=0.0, **options)  # type: ignore[arg-type]
        self.drain()

    def drain(self) -> None:
        for output in self.client.outputs():
            if not isinstance(output, Transmit):
                self.events.append((self.now, output))
                continue
            self.requests.append(self.now)
            datagram = output.datagram
            request = decode(datagram.payload)
            answer = self.answer(self.now, request)
            if answer is not None:
                reply = encode(
                    Message(answer[0], request.method, request.transaction_id, answer[1])
                )
                back = Datagram(SERVER, BASE, reply, transport=datagram.transport)
                self.in_flight.append((self.now + 2 * ONE_WAY, back))

    def run(self, until: float) -> None:
        while True:
            due = self.client.next_timeout()
            moments = [at for at, _ in self.in_flight] + ([] if due is None else [due])
            if not moments or min(moments) > until:
                self.now = until
                return
            self.now = min(moments)
            for entry in [each for each in self.in_flight if each[0] <= self.now]:
                self.in_flight.remove(entry)
                self.client.receive(entry[1], self.now)
            due = self.client.next_timeout()
            if due is not None and due <= self.now:
                self.client.handle_timeout(self.now)
                after = self.client.next_timeout()
                assert after is None or after > self.now, "spins"
            self.drain()

    def outcomes(self) -> list[BindingOutput]:
        return [event for _, event in self.events]


def test_mapped_address_is_learned_in_one_round_trip() -> None:
    line = Line(mapped(MAPPED))
    line.run(60.0)
    learned = MappedAddressLearned(BASE, SERVER, MAPPED, 2 * ONE_WAY)
    assert line.events == [(2 * ONE_WAY, learned)]
    assert line.requests == [0.0]
    assert line.client.mapped == MAPPED
    assert line.client.next_timeout() is None


def test_server_of_rfc3489_is_understood() -> None:
    line = Line(lambda _now, _request: (MessageClass.SUCCESS, (MappedAddress(MAPPED),)))
    line.run(60.0)
    assert line.client.mapped == MAPPED


def test_lost_request_is_sent_again() -> None:
    line = Line(lambda now, request: mapped(MAPPED)(now, request) if now >= 1.5 else None)
    line.run(60.0)
    assert line.requests == [0.0, 0.5, 1.5]
    assert line.outcomes() == [MappedAddressLearned(BASE, SERVER, MAPPED, None)]


def test_silent_server_is_given_up_after_39_5_seconds() -> None:
    line = Line(nothing)
    line.run(100.0)
    assert line.events == [(39.5, BindingFailed(BASE, SERVER, None, "the server does not answer"))]
    assert len(line.requests) == 7


def test_error_is_reported_with_its_code() -> None:
    line = Line(error(420))
    line.run(100.0)
    assert line.outcomes() == [BindingFailed(BASE, SERVER, 420, "no")]


def test_redirection_is_not_followed() -> None:
    line = Line(error(300))
    line.run(100.0)
    assert line.outcomes() == [BindingFailed(BASE, SERVER, 300, "no")]
    assert len(line.requests) == 1


def test_server_error_is_asked_about_four_times_more() -> None:
    line = Line(error(500))
    line.run(100.0)
    assert len(line.requests) == 5
    assert line.outcomes() == [BindingFailed(BASE, SERVER, 500, "no")]


def test_server_error_that_passes_is_not_reported() -> None:
    line = Line(lambda now, request: (error(500) if now < 1.0 else mapped(MAPPED))(now, request))
    line.run(100.0)
    assert [type(event) for event in line.outcomes()] == [MappedAddressLearned]


def test_answer_without_mapped_address_or_with_unknown_attribute_fails() -> None:
    for attributes in ((), (XorMappedAddress(MAPPED), UnknownAttribute(0x7777, b""))):
        line = Line(lambda _now, _request, each=attributes: (MessageClass.SUCCESS, each))
        line.run(1.0)
        assert [type(event) for event in line.outcomes()] == [BindingFailed]


def test_forged_answers_are_ignored() -> None:
    client = BindingClient(BASE, SERVER, random=counted_ids(), now=0.0)
    [output] = list(client.outputs())
    assert isinstance(output, Transmit)
    request = decode(output.datagram.payload)
    attributes = (XorMappedAddress(OTHER),)
    good = encode(Message(MessageClass.SUCCESS, request.method, request.transaction_id, attributes))
    wrong_id = encode(Message(MessageClass.SUCCESS, request.method, bytes(12), attributes))
    not_a_response = encode(Message(MessageClass.REQUEST, request.method, request.transaction_id))
    other_method = encode(Message(MessageClass.SUCCESS, 3, request.transaction_id, attributes))
    for forged in (
        Datagram(Address("192.0.2.66", 3478), BASE, good),
        Datagram(SERVER, Address("10.0.0.2", 5001), good),
        Datagram(SERVER, BASE, wrong_id),
        Datagram(SERVER, BASE, not_a_response),
        Datagram(SERVER, BASE, other_method),
        Datagram(SERVER, BASE, good[:-1]),
        Datagram(SERVER, BASE, b"\x40noise"),
    ):
        client.receive(forged, 0.01)
    assert client.mapped is None
    assert list(client.outputs()) == []
    client.receive(Datagram(SERVER, BASE, good), 0.02)
    assert client.mapped == OTHER
    client.receive(Datagram(SERVER, BASE, good), 0.03)
    assert len(list(client.outputs())) == 1, "a second copy changes nothing"


def test_keepalive_asks_on_time_and_tells_only_changes() -> None:
    line = Line(
        lambda now, request: mapped(MAPPED if now < 25 else OTHER)(now, request),
        keepalive_seconds=10.0,
    )
    line.run(45.0)
    assert line.requests == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert line.events == [
        (2 * ONE_WAY, MappedAddressLearned(BASE, SERVER, MAPPED, 2 * ONE_WAY)),
        (30.0 + 2 * ONE_WAY, MappedAddressChanged(BASE, SERVER, MAPPED, OTHER)),
    ]


def test_keepalive_reports_an_outage_once_and_its_end() -> None:
    line = Line(
        lambda now, request: None if 15 < now < 65 else mapped(MAPPED)(now, request),
        keepalive_seconds=10.0,
    )
    line.run(100.0)
    kinds = [type(event) for event in line.outcomes()]
    assert kinds == [MappedAddressLearned, BindingFailed, MappedAddressLearned]
    failed_at, back_at = line.events[1][0], line.events[2][0]
    assert failed_at == 20.0 + 9.5
    assert 65.0 < back_at < 75.0
    outage = [at for at in line.requests if 20.0 <= at < 65.0]
    gaps = [later - sooner for sooner, later in itertools.pairwise(outage)]
    assert max(gaps) <= 4.0, "a server that is back is heard soon"


def test_keepalive_shorter_than_an_outage_does_not_spin() -> None:
    line = Line(nothing, keepalive_seconds=1.0)
    line.run(40.0)
    assert len(line.outcomes()) == 1
    assert len(line.requests) < 30


def test_refresh_asks_at_once_and_shifts_the_next_keepalive() -> None:
    line = Line(mapped(MAPPED), keepalive_seconds=10.0)
    line.run(4.0)
    line.answer = mapped(OTHER)
    line.client.refresh(line.now)
    line.drain()
    line.run(20.0)
    assert line.requests == [0.0, 4.0, 14.0]
    assert line.outcomes()[-1] == MappedAddressChanged(BASE, SERVER, MAPPED, OTHER)


def test_answer_to_a_question_that_was_asked_anew_does_not_count() -> None:
    line = Line(nothing)
    line.client.refresh(0.0)
    line.answer = mapped(MAPPED)
    line.drain()
    first = Message(MessageClass.SUCCESS, 1, (1).to_bytes(12, "big"), (XorMappedAddress(OTHER),))
    line.client.receive(Datagram(SERVER, BASE, encode(first)), 0.01)
    assert line.client.mapped is None


def test_closed_client_is_silent() -> None:
    line = Line(mapped(MAPPED), keepalive_seconds=10.0)
    line.run(1.0)
    line.client.close()
    line.client.refresh(1.0)
    line.drain()
    line.run(100.0)
    assert line.requests == [0.0]
    assert line.client.next_timeout() is None


def test_over_a_stream_it_asks_once_and_hears_of_the_end() -> None:
    line = Line(nothing, transport=Transport.TCP)
    line.run(10.0)
    assert line.requests == [0.0]
    line.client.disconnected(10.0)
    line.drain()
    assert [type(event) for event in line.outcomes()] == [BindingFailed]
    assert line.client.next_timeout() is None


def test_software_is_told_when_wanted() -> None:
    seen: list[Message] = []

    def remember(now: float, request: Message) -> None:
        seen.append(request)

    Line(remember, software="knothole")
    Line(remember)
    assert [request.get(Software) for request in seen] == [Software("knothole"), None]


def test_unrelated_timeouts_do_nothing() -> None:
    client = BindingClient(BASE, SERVER, random=counted_ids(), now=0.0)
    list(client.outputs())
    client.handle_timeout(0.1)
    assert list(client.outputs()) == []

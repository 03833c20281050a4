from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knothole.server.client_hello import NotClientHello, application_protocols


@pytest.mark.parametrize("offered", [[], ["http/1.1"], ["stun.turn"], ["h2", "http/1.1"]])
def test_the_protocols_are_those_that_the_client_offers(client_hello, offered) -> None:
    assert application_protocols(client_hello(offered)) == tuple(offered)


def test_nothing_is_said_before_the_record_is_whole(client_hello) -> None:
    hello = client_hello(["stun.turn"])
    for end in range(len(hello)):
        assert application_protocols(hello[:end]) is None
    assert application_protocols(hello + b"more") == ("stun.turn",)


def test_a_client_hello_spread_over_two_records_is_not_read_but_not_refused_either(
    client_hello,
) -> None:
    hello = client_hello(["http/1.1"])
    first = hello[:3] + (100).to_bytes(2, "big") + hello[5:105]
    assert application_protocols(first) == ()


@pytest.mark.parametrize(
    "data",
    [b"\x15\x03\x01\x00\x02aa", b"\x16\x02\x00\x00\x04aaaa", b"\x16\x03\x01\xff\xff", b"GET"],
)
def test_other_bytes_are_refused(data) -> None:
    with pytest.raises(NotClientHello):
        application_protocols(data)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_the_one_error(data) -> None:
    for each in (data, b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data):
        with contextlib.suppress(NotClientHello):
            application_protocols(each)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_client_hello_gives_a_value_or_the_one_error(client_hello, data) -> None:
    hello = bytearray(client_hello(["http/1.1"]))
    for _ in range(data.draw(st.integers(1, 5))):
        hello[data.draw(st.integers(5, len(hello) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NotClientHello):
        application_protocols(bytes(hello))

"""One port for everything: who is recognised as what, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import socket

import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus

from knothole.wire.server_url import parse_server_url
from knothole.wire.signal.codec import decode_from_server
from knothole.wire.signal.messages import Challenge
from knothole.wire.stun import ErrorCode, Message, MessageClass, Method, encode

HOST = "127.0.0.1"
PATIENCE = 40.0


@pytest.fixture
def port(server) -> int:
    return parse_server_url(server.url).port


@pytest.fixture
def further(server) -> int:
    return parse_server_url(server.url).tcp_ports[0]


def test_udp_carries_stun(stun, port) -> None:
    assert stun.udp(HOST, port).message_class is MessageClass.SUCCESS
    assert stun.udp(HOST, port + 1).message_class is MessageClass.SUCCESS


def test_udp_carries_the_stun_of_2003_where_the_operator_says_so(serve, stun) -> None:
    old = parse_server_url(serve("--classic-stun").ready().url).port
    classic = Message(MessageClass.REQUEST, Method.BINDING, b"t" * 16, cookie=False)
    answer = stun.udp(HOST, old, encode(classic))
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.transaction_id == b"t" * 16


def test_udp_carries_turn_which_nobody_uses_without_credentials(stun, port) -> None:
    allocate = Message(MessageClass.REQUEST, Method.ALLOCATE, b"t" * 12)
    answer = stun.udp(HOST, port, encode(allocate))
    error = answer.get(ErrorCode)
    assert error is not None
    assert error.code == 401


@pytest.mark.parametrize("alpn", ["", None, "stun.turn", "something-else"])
def test_tcp_carries_stun_in_the_clear_and_in_tls_with_alpn_and_without(
    stun, port, further, alpn
) -> None:
    for each in (port, further):
        assert stun.stream(HOST, each, alpn).message_class is MessageClass.SUCCESS


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["stun.turn"], "stun.turn"),
        (["stun.nat-discovery"], "stun.nat-discovery"),
        (["stun.nat-discovery", "stun.turn"], "stun.turn"),
        (["something-else"], None),
    ],
)
def test_the_protocol_in_tls_is_one_of_rfc_7443_or_none(port, tls_context, offered, chosen) -> None:
    with (
        socket.create_connection((HOST, port), timeout=PATIENCE) as plain,
        tls_context(*offered).wrap_socket(plain) as secured,
    ):
        assert secured.selected_alpn_protocol() == chosen


def test_a_turn_client_that_offers_http_too_is_served(stun, port) -> None:
    """As coturn's client does."""
    alpn = ["http/1.1", "stun.turn", "stun.nat-discovery"]
    assert stun.stream(HOST, port, *alpn).message_class is MessageClass.SUCCESS


@pytest.mark.parametrize("alpn", [["http/1.1"], ["h2", "http/1.1"], ["stun.turn", "http/1.1"], []])
def test_tls_carries_the_websocket_with_alpn_and_without(port, further, tls_context, alpn) -> None:
    for each in (port, further):
        with websockets.sync.client.connect(
            f"wss://{HOST}:{each}/",
            ssl=tls_context(*alpn),
            compression=None,
            open_timeout=PATIENCE,
        ) as connection:
            data = connection.recv(PATIENCE)
            assert isinstance(data, bytes)
            assert isinstance(decode_from_server(data), Challenge)
            connection.send(b"nonsense")
            assert b"malformed" in connection.recv(PATIENCE)


def test_a_client_hello_may_come_in_pieces(port, client_hello) -> None:
    """Post-quantum key shares do not fit one segment; some clients cut it up on purpose."""
    hello = client_hello(["stun.turn"])
    with socket.create_connection((HOST, port), timeout=PATIENCE) as out:
        out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(hello), 100):
            out.sendall(hello[start : start + 100])
        assert out.recv(1) == b"\x16", "a ServerHello"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
def test_plain_http_is_told_to_use_tls(port, method) -> None:
    client = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    client.request(method, "/", body=b"x" * 100 if method == "POST" else None)
    answer = client.getresponse()
    assert answer.status == 426
    assert answer.getheader("upgrade") == "TLS/1.2"
    if method != "HEAD":
        assert b"knothole server. Connect with TLS" in answer.read()
    client.close()


@pytest.mark.parametrize("alpn", ["http/1.1", None])
def test_a_browser_that_is_no_websocket_is_answered_too(port, tls, alpn) -> None:
    with socket.create_connection((HOST, port), timeout=PATIENCE) as plain:
        sock = tls(plain, alpn)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: there\r\n\r\n")
        answer = b""
        while more := sock.recv(4096):
            answer += more
        assert answer.startswith(b"HTTP/1.1 426 ")
        sock.close()


def test_a_websocket_asked_for_in_a_wrong_way_is_refused(port, tls_context) -> None:
    with (
        pytest.raises(InvalidStatus),
        websockets.sync.client.connect(
            f"wss://{HOST}:{port}/",
            ssl=tls_context(),
            additional_headers={"Sec-WebSocket-Version": "7"},
            open_timeout=PATIENCE,
        ),
    ):
        pass


@pytest.mark.parametrize("first", [b"\x17\x03\x03\x00\x01a", b"\x80abc", b"\x16\x09\x00", b"\xff"])
def test_whoever_speaks_nothing_known_is_let_go_at_once(port, first) -> None:
    with socket.create_connection((HOST, port), timeout=PATIENCE) as sock:
        sock.sendall(first + bytes(8))
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""


async def test_a_client_gets_all_it_needs(server, clients) -> None:
    await clients.is_served(server.url, "alice")


async def test_all_of_it_over_ipv6_too(serve, stun, clients, free_port) -> None:
    port = free_port("::1")
    server = serve(host="::1", port=port).ready()
    assert server.url.startswith(f"ready knothole://[::1]:{port}#".removeprefix("ready "))
    assert stun.udp("::1", port).message_class is MessageClass.SUCCESS
    assert stun.stream("::1", port).message_class is MessageClass.SUCCESS
    await clients.is_served(server.url, "alice")


async def test_by_default_it_listens_on_every_address(serve, stun, clients, free_port) -> None:
    port = free_port()
    server = serve(host="0.0.0.0", port=port).ready()
    address = parse_server_url(server.url).host
    for host in {"127.0.0.1", address}:
        assert stun.udp(host, port).message_class is MessageClass.SUCCESS
        assert stun.stream(host, port).message_class is MessageClass.SUCCESS

"""Our STUN server against coturn's clients, and our client against coturn's server, on loopback."""

from __future__ import annotations

import contextlib
import itertools
import select
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.stun.client import BindingClient, MappedAddressLearned
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.engine.stun.survey import BehaviourLearned, Survey
from knothole.wire.address import Address
from knothole.wire.nat import Dependence

from ..ports import free_port

pytestmark = pytest.mark.interop

HOSTS = ("127.0.0.1", "127.0.0.2")


def open_socket(host: str, port: int = 0) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((host, port))
    return opened


def two_free_ports() -> tuple[int, int]:
    """Two ports that are free on both hosts."""
    while True:
        port = free_port(HOSTS[0])
        with contextlib.suppress(OSError):
            for each in (port, port + 1):
                open_socket(HOSTS[1], each).close()
            return port, port + 1


@contextlib.contextmanager
def our_server(port: int, other_port: int, *, two_hosts: bool) -> Iterator[None]:
    hosts = HOSTS if two_hosts else HOSTS[:1]
    alternates = AlternateAddresses(HOSTS[0], port, other_port, HOSTS[1] if two_hosts else None)
    server = BindingServer(alternates=alternates, software="knothole")
    selector = selectors.DefaultSelector()
    sockets = {
        Address(host, each): open_socket(host, each)
        for host in hosts
        for each in (port, other_port)
    }
    for address, opened in sockets.items():
        selector.register(opened, selectors.EVENT_READ, address)
    waker, sleeper = socket.socketpair()
    selector.register(sleeper, selectors.EVENT_READ, None)

    def serve() -> None:
        while True:
            for ready, _ in selector.select():
                if ready.data is None:
                    return
                payload, source = sockets[ready.data].recvfrom(65536)
                server.receive(Datagram(Address(*source), ready.data, payload), 0.0)
                for output in server.outputs():
                    answer = output.datagram
                    sockets[answer.source].sendto(answer.payload, answer.destination)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        waker.send(b"x")
        thread.join()
        for each in (*sockets.values(), waker, sleeper, selector):
            each.close()


@contextlib.contextmanager
def coturn(folder: Path, port: int, other_port: int) -> Iterator[None]:
    command = ["turnserver", "-n", "--no-cli", "--no-tcp", "--no-tls", "--no-dtls"]
    command += ["--no-software-attribute", "--log-file=stdout", f"--pidfile={folder}/pid"]
    command += [f"--userdb={folder}/db", f"--listening-port={port}"]
    command += [f"--alt-listening-port={other_port}"]
    command += [f"--listening-ip={host}" for host in HOSTS]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def counted_ids() -> RandomBytes:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def run(engine: BindingClient | Survey, *opened: socket.socket) -> list[object]:
    """Drive one engine over real sockets until it wants nothing more."""
    sockets = {Address(*each.getsockname()): each for each in opened}
    events: list[object] = []
    while True:
        for output in engine.outputs():
            if isinstance(output, Transmit):
                # A server that is still starting answers by ICMP; the retransmission mends it.
                with contextlib.suppress(ConnectionRefusedError):
                    sending = sockets[output.datagram.source]
                    sending.sendto(output.datagram.payload, output.datagram.destination)
            else:
                events.append(output)
        due = engine.next_timeout()
        if due is None:
            return events
        ready, _, _ = select.select(opened, (), (), max(due - time.monotonic(), 0.001))
        for each in ready:
            with contextlib.suppress(ConnectionRefusedError):
                payload, source = each.recvfrom(65536)
                base = Address(*each.getsockname())
                engine.receive(Datagram(Address(*source), base, payload), time.monotonic())
        due = engine.next_timeout()
        if due is not None and due <= time.monotonic():
            engine.handle_timeout(time.monotonic())


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_coturns_stun_client_learns_its_address_from_our_server() -> None:
    port, other_port = two_free_ports()
    with our_server(port, other_port, two_hosts=True):
        said = output_of("turnutils_stunclient", "-p", str(port), "-L", HOSTS[0], HOSTS[0])
        assert f"UDP reflexive addr: {HOSTS[0]}:" in said
        said = output_of("turnutils_stunclient", "-f", "-p", str(port), "-L", HOSTS[0], HOSTS[0])
        assert f"Other addr: : {HOSTS[1]}:{other_port}" in said
        assert f"Response origin: : {HOSTS[1]}:{other_port}" in said


def test_coturns_discovery_finds_no_nat_before_our_server() -> None:
    port, other_port = two_free_ports()
    with our_server(port, other_port, two_hosts=True):
        said = output_of("turnutils_natdiscovery", "-m", "-f", "-p", str(port), HOSTS[0])
    assert "Endpoint Independent Mapping" in said or "No NAT" in said, said
    assert "Endpoint Independent Filtering" in said, said


def test_coturns_discovery_sees_that_one_address_is_not_enough() -> None:
    port, other_port = two_free_ports()
    with our_server(port, other_port, two_hosts=False):
        said = output_of("turnutils_natdiscovery", "-m", "-p", str(port), HOSTS[0])
    assert f"UDP reflexive addr: {HOSTS[0]}:" in said, said
    assert "Other addr" not in said, said


def test_our_client_learns_its_address_from_coturn(tmp_path: Path) -> None:
    port, other_port = two_free_ports()
    with coturn(tmp_path, port, other_port), open_socket(HOSTS[0]) as opened:
        base, server = Address(*opened.getsockname()), Address(HOSTS[0], port)
        client = BindingClient(base, server, random=counted_ids(), now=time.monotonic())
        [learned] = run(client, opened)
    assert isinstance(learned, MappedAddressLearned)
    assert learned.mapped == base


def test_our_discovery_finds_no_nat_before_coturn(tmp_path: Path) -> None:
    port, other_port = two_free_ports()
    with (
        coturn(tmp_path, port, other_port),
        open_socket(HOSTS[0]) as first,
        open_socket(HOSTS[0]) as second,
    ):
        bases = [Address(*each.getsockname()) for each in (first, second)]
        server = Address(HOSTS[0], port)
        waiting = BindingClient(bases[0], server, random=counted_ids(), now=time.monotonic())
        run(waiting, first)  # until it serves
        survey = Survey(bases, [server], random=counted_ids(), now=time.monotonic())
        *_, learned = run(survey, first, second)
    assert isinstance(learned, BehaviourLearned)
    assert learned.behaviour.translated is False
    assert learned.behaviour.mapping is Dependence.ENDPOINT_INDEPENDENT
    assert learned.behaviour.filtering is Dependence.ENDPOINT_INDEPENDENT
    assert len(learned.behaviour.mapped) == 3

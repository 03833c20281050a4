"""A real server to attack, and what must be as it was after each attack.

A file that says ``ALSO_ACCELERATED = True`` has its tests made twice: with user space alone, and
with the kernel relaying what it can (which is for root). ``RELAY`` of a file are further lines
under ``[relay]``.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from knothole.engine.turn.credentials import rest_credentials
from knothole.lab.fuzz.patient import Patient, vitals
from knothole.lab.fuzz.witness import MOST_GROWTH, Figures, read_figures
from knothole.wire.stun import ChannelNumber, Method, XorPeerAddress

from .attacker import PATIENCE, Attacker, StreamAttacker

RELAY = """[relay]
allocations-per-user = 8
allocations-per-network = 20
max-datagrams = 1
new-peers-per-minute = 1
"""
SETTLE_SECONDS = 120.0
MEBIBYTE = 2**20

if sys.platform != "linux":  # memory, descriptors and sockets are read from /proc
    collect_ignore_glob = ["test_*.py"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "patient" in metafunc.fixturenames:
        ways: list[object] = ["user-space"]
        if getattr(metafunc.module, "ALSO_ACCELERATED", False):
            ways.append(pytest.param("accelerator", marks=pytest.mark.netns))
        metafunc.parametrize("patient", ways, indirect=True)


@pytest.fixture(scope="module")
def patient(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Patient]:
    """One server for all tests of a file, with limits that can be met in a test."""
    further = getattr(request.module, "RELAY", "")
    with running(tmp_path_factory.mktemp("patient"), request.param, RELAY + further) as started:
        yield started


@contextlib.contextmanager
def running(folder: Path, way: str, config: str) -> Iterator[Patient]:
    """A server with that configuration to which nothing has happened yet but what everybody does.

    ``way`` is "user-space" or "accelerator".
    """
    from ...netns.bpf_packets import may_use_bpf
    from ..conftest import Stun, free_port, open_tls

    if way == "accelerator" and not may_use_bpf():
        pytest.skip("no rights to load eBPF programs here")
    switch = () if way == "accelerator" else ("--no-accelerator",)
    with Patient(folder, free_port(), "--host", "::1", *switch, config=config) as started:
        assert read_figures(started.metrics_port).sum("knothole_accelerator_on") == (not switch)
        # libuv opens a descriptor for itself, once, with the first connection of a process, and so
        # does the accelerator with the first channel that it can carry.
        Stun().stream("127.0.0.1", started.port, "")
        with (
            socket.create_connection(("127.0.0.1", started.port), PATIENCE) as plain,
            open_tls(plain, "http/1.1") as browser,
        ):
            browser.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            browser.recv(1000)
        with user_of(started, "one") as one, user_of(started, "two", seed=2) as two:
            to_two, to_one = XorPeerAddress(two.allocate()), XorPeerAddress(one.allocate())
            for user, peer in ((one, to_two), (two, to_one)):
                assert user.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), peer) == 0
        yield started
        assert started.lives
        assert started.complaints() == ""


@dataclass(frozen=True)
class Calm:
    """A server that nobody uses."""

    said: Figures
    ports: int

    @classmethod
    def of(cls, patient: Patient) -> Calm:
        return cls(read_figures(patient.metrics_port), vitals(patient.processes).ports)

    def trouble(self, now: Calm) -> str:
        """What there is ``now`` more than in the calm; "" when nothing."""
        left = [
            f"{count} {name}, {was} before"
            for name, (count, was) in now.said.left_of(self.said).items()
        ]
        if now.ports > self.ports:
            left.append(f"{now.ports} ports, {self.ports} before")
        growth = now.said.memory_bytes - self.said.memory_bytes
        if growth > MOST_GROWTH:
            left.append(f"{growth / MEBIBYTE:.1f} MiB more")
        return "; ".join([*left, *filter(None, [now.said.health])])


@pytest.fixture(scope="module")
def calm_of() -> dict[int, Calm]:
    """How each server was before its first attack, by its process."""
    return {}


@pytest.fixture(autouse=True)
def nothing_is_left(patient: Patient, calm_of: dict[int, Calm]) -> Iterator[None]:
    """After each attack: allocations, connections, descriptors, ports, tasks, entries of the
    accelerator and memory are what they were before the first, and everybody is served."""
    if patient.process.pid not in calm_of:
        calm_of[patient.process.pid] = settled(patient)
    calm = calm_of[patient.process.pid]
    yield
    assert patient.lives
    deadline = time.monotonic() + SETTLE_SECONDS
    while trouble := calm.trouble(Calm.of(patient)):
        assert time.monotonic() < deadline, trouble
        time.sleep(0.1)
    with user_of(patient, "honest") as honest:
        honest.allocate()


def settled(patient: Patient) -> Calm:
    """How it is once nothing changes any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    before, now = Calm.of(patient), Calm.of(patient)
    while before.trouble(now) or now.trouble(before) or now.said.allocations:
        assert time.monotonic() < deadline, now.said
        time.sleep(0.2)
        before, now = now, Calm.of(patient)
    return now


def user_of(
    patient: Patient,
    name: str,
    lifetime: float = 3600,
    *,
    kind: type[Attacker] = Attacker,
    **options: object,
) -> Attacker:
    """With credentials that are good."""
    made = rest_credentials(patient.secret, name, lifetime, time.time())
    return kind(patient.port, made.username, made.password, **options)  # type: ignore[arg-type]


@pytest.fixture
def user(patient: Patient) -> Callable[..., Attacker]:
    """``user(name, lifetime)``: an attacker with good credentials, to be used as a context."""
    return lambda *args, **options: user_of(patient, *args, **options)


@pytest.fixture
def stream_user(patient: Patient) -> Callable[..., Attacker]:
    """The same over TCP, for TCP allocations."""
    return lambda *args, **options: user_of(patient, *args, kind=StreamAttacker, **options)

"""A real server to attack, and what must be as it was after each attack."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knothole.engine.turn.credentials import rest_credentials
from knothole.lab.fuzz.patient import Patient, vitals

from .attacker import PATIENCE, Attacker

CONFIG = """
[relay]
allocations-per-user = 8
allocations-per-network = 20
max-datagrams = 1
new-peers-per-minute = 1
"""
SETTLE_SECONDS = 120.0

if sys.platform != "linux":  # memory, descriptors and sockets are read from /proc
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """One server for all tests of a file, with limits that can be met in a test."""
    from ..conftest import Stun, free_port, open_tls

    folder: Path = tmp_path_factory.mktemp("patient")
    (folder / "server.toml").write_text(f'data = "{folder / "data"}"\n{CONFIG}')
    arguments = ("--config", str(folder / "server.toml"), "--host", "::1")
    # Without the accelerator, which opens descriptors with the first channel that it can carry.
    with Patient(folder, free_port(), *arguments, "--no-accelerator") as running:
        # libuv opens a descriptor for itself, once, with the first connection of a process.
        stun = Stun()
        stun.stream("127.0.0.1", running.port, "")
        with (
            socket.create_connection(("127.0.0.1", running.port), PATIENCE) as plain,
            open_tls(plain, "http/1.1") as browser,
        ):
            browser.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            browser.recv(1000)
        yield running
        assert running.lives
        assert running.complaints() == ""


@pytest.fixture(autouse=True)
def nothing_is_left(patient: Patient) -> Iterator[None]:
    """After each attack: the same processes, with no more descriptors than before, and serving."""
    with Attacker(patient.port) as before:
        before.challenge()
        before.nonce = b""
    descriptors = vitals(patient.processes).descriptors
    yield
    assert patient.lives
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := vitals(patient.processes).descriptors) > descriptors:
        assert time.monotonic() < deadline, f"{left} descriptors, {descriptors} before"
        time.sleep(0.05)
    with user_of(patient, "honest") as honest:
        honest.allocate()


def user_of(patient: Patient, name: str, lifetime: float = 3600, **options: object) -> Attacker:
    """With credentials that are good."""
    made = rest_credentials(patient.secret, name, lifetime, time.time())
    return Attacker(patient.port, made.username, made.password, **options)  # type: ignore[arg-type]


@pytest.fixture
def user(patient: Patient) -> Callable[..., Attacker]:
    """``user(name, lifetime)``: an attacker with good credentials, to be used as a context."""
    return lambda *args, **options: user_of(patient, *args, **options)


@pytest.fixture
def patience() -> float:
    return PATIENCE

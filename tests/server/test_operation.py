"""Operating a running server, with stand-ins for its processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from knothole.server.config import OtherTurn, ServerConfig
from knothole.server.control import Request
from knothole.server.link import Change, Done, Drain
from knothole.server.material import load_material
from knothole.server.operation import NotChanged, Operation
from knothole.server.services import ServiceDesk
from knothole.server.snapshot import SwitchboardReport


class Relay:
    """Answers every order with ``answer``, or never."""

    processes = 1

    def __init__(self) -> None:
        self.orders: list[object] = []
        self.answer: Done | None = Done()

    async def ask(self, order: object, seconds: float) -> list[Done]:
        if self.answer is None:
            raise TimeoutError
        self.orders.append(order)
        return [self.answer]


class Rendezvous:
    """Counts how often clients were told of other servers."""

    def __init__(self) -> None:
        self.told = 0
        self.pins: list[bytes] = []

    def renew_services(self) -> None:
        self.told += 1

    def set_certificate(self, _context: object, pins: list[bytes]) -> None:
        self.pins = pins

    def set_invitations_needed(self, needed: bool) -> None:
        self.invitations_needed = needed

    def report(self) -> SwitchboardReport:
        return SwitchboardReport(0, 0, 0)


class Setting:
    def __init__(self, folder: Path) -> None:
        self.config = ServerConfig(folder)
        self.relay, self.rendezvous = Relay(), Rendezvous()
        material = load_material(self.config)
        self.desk = ServiceDesk(self.config, material.secrets[0])
        self.said: list[tuple[str, str]] = []
        self.operation = Operation(
            self.config,
            material,
            relay=self.relay,
            rendezvous=self.rendezvous,
            desk=self.desk,
            say=lambda *news: self.said.append(news),
            load=lambda: self.config,
            reached=dict,
        )

    @property
    def offered(self) -> list[str]:
        return [uri for each in self.desk.services("session", "alice").turn for uri in each.uris]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Setting]:
    setting = Setting(tmp_path)
    yield setting
    setting.operation.stop()


async def test_registered_clients_are_told_that_the_relay_runs_out(here: Setting) -> None:
    assert here.offered
    await here.operation.drain()
    assert here.relay.orders == [Drain(True)]
    assert (here.offered, here.rendezvous.told) == ([], 1)
    other = OtherTurn(("turn:other.example.org",), b"a long secret")
    here.config = replace(here.config, other_turn=(other,))
    await here.operation.reload()
    assert (here.offered, here.rendezvous.told) == (["turn:other.example.org"], 2)
    await here.operation.drain(False)
    assert len(here.offered) > 1
    assert here.rendezvous.told == 3
    await here.operation.reload()
    assert here.rendezvous.told == 3, "nothing has changed for them"


async def test_who_has_seen_the_old_certificate_may_still_sign_for_it(
    here: Setting, tmp_path: Path
) -> None:
    before = load_material(here.config).certificate.key_hash
    for name in ("server-cert.pem", "server-key.pem"):
        (tmp_path / name).unlink()
    await here.operation.reload()
    after = load_material(here.config).certificate.key_hash
    assert here.rendezvous.pins == [after, before]


@pytest.mark.parametrize("trouble", [Done("it cannot be"), None])
async def test_what_the_relay_refuses_changes_nothing_here(here: Setting, trouble) -> None:
    here.relay.answer = trouble
    running = here.operation.config
    here.config = replace(running, allocations=1)
    with pytest.raises(NotChanged, match="it cannot be" if trouble else "does not answer"):
        await here.operation.reload()
    with pytest.raises(NotChanged):
        await here.operation.drain()
    assert here.operation.config is running
    assert not here.operation.is_draining
    assert here.offered
    assert here.rendezvous.told == 0
    snapshot = await here.operation.look()
    assert not snapshot.is_healthy


async def test_changes_come_one_after_the_other(here: Setting) -> None:
    await asyncio.gather(*(here.operation.refresh() for _ in range(5)))
    assert [type(order) for order in here.relay.orders] == [Change] * 5


async def test_a_command_of_another_version_is_told_so(here: Setting) -> None:
    with pytest.raises(NotChanged, match="it is of another version"):
        await here.operation.carry_out(Request("dance"))

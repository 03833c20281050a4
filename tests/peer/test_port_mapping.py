"""Which gateways are told to the endpoint, and when nobody is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from knothole.io.gateways import Gateway
from knothole.peer import port_mapping
from knothole.peer.port_mapping import PortMapping, may_map
from knothole.wire.address import Address
from knothole.wire.server_url import ServerUrl

BASES = [Address("192.168.1.10", 1414), Address("2a00:1::10", 1415), Address("10.9.9.9", 1416)]


def server(host: str) -> ServerUrl:
    return ServerUrl(host=host, port=3478, pin=bytes(32))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_for_a_server_on_this_machine_nobody_is_asked(host: str) -> None:
    assert not may_map(server(host))


def test_the_environment_forbids_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_map(server("3.3.3.3"))
    monkeypatch.setenv("KNOTHOLE_PORT_MAPPING", "off")
    assert not may_map(server("3.3.3.3"))


class Mapper:
    """Takes down what it is told, as endpoint and engine at once."""

    def __init__(self) -> None:
        self.routes: list[Any] = []
        self.upnp: list[Any] = []

    def map_ports(self, do: Callable[[Any, float], None], now: float) -> None:
        do(self, now)

    def set_routes(self, routes: Any, now: float) -> None:
        self.routes.append(list(routes))

    def set_upnp(self, mappings: Any, attempts: Any) -> None:
        self.upnp.append(list(attempts))

    def command(self, do: Callable[[float], None]) -> None:
        do(0.0)


@pytest.fixture
def mapper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapper]:
    gateways = [Gateway("192.168.1.1", "eth0"), Gateway("fe80::1%eth0", "eth0")]
    of_host = {"192.168.1.10": "192.168.1.1", "2a00:1::10": "fe80::1%eth0"}
    monkeypatch.setattr(port_mapping, "default_gateways", lambda: gateways)
    monkeypatch.setattr(port_mapping, "gateway_of_each", lambda hosts, given: of_host)
    yield Mapper()


async def test_each_socket_is_told_with_the_gateway_of_its_interface(mapper: Mapper) -> None:
    mapping = PortMapping(mapper, mapper.command)  # type: ignore[arg-type]
    try:
        await mapping.set_bases(BASES)
        assert mapper.routes == [
            [(BASES[0], "192.168.1.1"), (BASES[1], "fe80::1%eth0")],
        ]
    finally:
        await mapping.close()
    assert mapper.upnp == [[]], "UPnP is over, and was asked for one IPv4 socket only"


async def test_sockets_that_come_while_it_closes_are_not_mapped(
    mapper: Mapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> list[Gateway]:
        began.set()
        go_on.wait(30)
        return []

    monkeypatch.setattr(port_mapping, "default_gateways", slow)
    mapping = PortMapping(mapper, mapper.command)  # type: ignore[arg-type]
    setting = asyncio.create_task(mapping.set_bases(BASES))
    await asyncio.to_thread(began.wait, 30)
    await mapping.close()
    go_on.set()
    await setting
    assert mapper.routes == []
    assert mapper.upnp == []


async def test_whatever_a_changed_network_has_begun_is_closed_at_the_end(
    mapper: Mapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, go_on = asyncio.Event(), asyncio.Event()
    open_now: list[Address] = []

    class Upnp:
        mapping = attempt = None

        def __init__(self, base: Address, gateway: str, changed: Callable[[], None]) -> None:
            self._base = base
            open_now.append(base)

        async def close(self) -> None:
            if self._base == BASES[0]:
                leaving.set()
                await go_on.wait()
            open_now.remove(self._base)

    monkeypatch.setattr(port_mapping, "UpnpMapper", Upnp)
    mapping = PortMapping(mapper, mapper.command)  # type: ignore[arg-type]
    await mapping.set_bases(BASES)
    changing = asyncio.create_task(mapping.set_bases([Address(BASES[0].host, 1500)]))
    await leaving.wait()
    await mapping.close()
    go_on.set()
    await changing
    assert open_now == []

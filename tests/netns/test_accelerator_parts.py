"""The accelerator without a server: entries that expire, and kernels without tcx links."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.server_events import Shortcut, ShortcutKey
from knothole.io.bpf.layout import Count
from knothole.lab.netns.topology import Lab
from knothole.server.accelerator import Accelerator, AcceleratorStatus, make_accelerator
from knothole.wire.address import Address

from .bpf_packets import may_use_bpf
from .relay_place import Socket, attached_programs

pytestmark = pytest.mark.netns

NUMBER = 0x4001
LASTS = 10.0  # seconds: what is to pass before the end does so on a busy machine too


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if not may_use_bpf():
        pytest.skip("no rights to load eBPF programs here")
    with Lab() as built:
        for name in ("server", "peer", "alice"):
            built.add_server(name)
        yield built


class Place:
    """A listener and a relayed address with nobody behind them but the kernel."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.client, self.peer = Socket(lab, "alice"), Socket(lab, "peer")
        self.listener, self.relayed = Socket(lab, "server"), Socket(lab, "server")
        self.key = ShortcutKey(self.client.address, self.listener.address, NUMBER)
        self.passed: list[tuple[ShortcutKey, Count]] = []
        self.broke: list[str] = []
        self.budgets = (Budget(0, 0, time.monotonic()),)

    def run(self, story: Callable[[Accelerator], Awaitable[None]], **options: object) -> None:
        """The story in the server's namespace: the loop is only run inside."""
        with self.lab.inside("server"):
            asyncio.run(self._run(story, options))

    def shortcut(self, seconds: float) -> Shortcut:
        until = time.monotonic() + seconds
        return Shortcut(self.relayed.address, self.peer.address, 0, until)

    def send(self) -> None:
        self.client.send(bytes.fromhex("40010004") + b"data", self.listener.address)

    def close(self) -> None:
        for each in (self.client, self.peer, self.listener, self.relayed):
            each.close()

    def open(self, **options: object) -> Accelerator:
        host = self.listener.address.host
        made = make_accelerator(
            True,
            **{
                "port": 3478,
                "relay_hosts": {host: host},
                "machine": [host],
                "passed": lambda key, count: self.passed.append((key, count)),
                "broke": self.broke.append,
                **options,
            },
        )
        assert isinstance(made, Accelerator), made.status().reason
        return made

    async def _run(
        self, story: Callable[[Accelerator], Awaitable[None]], options: dict[str, object]
    ) -> None:
        accelerator = self.open(**options)
        try:
            await story(accelerator)
        finally:
            accelerator.close()


@pytest.fixture
def place(lab: Lab) -> Iterator[Place]:
    made = Place(lab)
    yield made
    made.close()


async def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not happens():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def classifiers(lab: Lab) -> int:
    """Ours at the ingress of the server's interface, as tc(8) shows them."""
    command = ["tc", "filter", "show", "dev", "eth0", "ingress"]
    shown = lab.run("server", command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return shown.count("knothole direct-action")


def test_an_entry_that_expires_lets_nothing_pass_any_more(place) -> None:
    """Nobody takes it out: the server may be dead."""

    async def story(accelerator: Accelerator) -> None:
        shortcut = place.shortcut(LASTS)
        accelerator.install(place.key, shortcut, place.budgets)
        place.send()
        assert place.peer.receive() == (b"data", place.relayed.address)
        await until(lambda: time.monotonic() >= shortcut.expires_at)
        place.send()
        received, source = place.listener.receive()
        assert (received[4:], source) == (b"data", place.client.address), "as it came"
        accelerator.install(place.key, place.shortcut(60), place.budgets)
        place.send()
        assert place.peer.receive() == (b"data", place.relayed.address)

    place.run(story)


def test_what_has_passed_is_reported_every_second_and_at_the_removal(place) -> None:
    async def story(accelerator: Accelerator) -> None:
        accelerator.install(place.key, place.shortcut(60), place.budgets)
        place.send()
        await until(lambda: bool(place.passed))
        assert place.passed == [(place.key, Count(1, 4))]
        place.send()
        place.send()
        for _ in range(3):
            place.peer.receive()
        accelerator.remove(place.key)
        assert sum(count.packets for _, count in place.passed) == 3
        assert accelerator.status() == AcceleratorStatus(
            on=True, interfaces=("eth0",), entries=0, packets=3, bytes=12
        )
        place.send()
        assert place.listener.receive()[0][4:] == b"data", "the kernel does it no more"

    place.run(story)


def test_without_tcx_links_it_is_a_classifier_that_close_removes(lab, place) -> None:
    async def story(accelerator: Accelerator) -> None:
        accelerator.install(place.key, place.shortcut(60), place.budgets)
        assert attached_programs(lab, "server", "eth0") == 0
        assert classifiers(lab) == 1
        place.send()
        assert place.peer.receive() == (b"data", place.relayed.address)

    place.run(story, links=False)
    assert classifiers(lab) == 0


def test_a_classifier_of_a_killed_server_does_nothing_for_long_and_the_next_start_removes_it(
    lab, place
) -> None:
    ends: list[float] = []

    async def killed(accelerator: Accelerator) -> None:
        shortcut = place.shortcut(LASTS)
        ends.append(shortcut.expires_at)
        accelerator.install(place.key, shortcut, place.budgets)
        assert classifiers(lab) == 1
        accelerator._attachments._attached.clear()  # what the kernel does not do at an end

    async def next_start(accelerator: Accelerator) -> None:
        assert classifiers(lab) == 0
        accelerator.install(place.key, place.shortcut(60), place.budgets)
        assert classifiers(lab) == 1

    async def another_server(accelerator: Accelerator) -> None:
        assert classifiers(lab) == 1, "it leaves alone what is not its own"

    place.run(killed, links=False)
    while time.monotonic() < ends[0]:
        time.sleep(0.01)
    place.send()
    assert place.listener.receive()[0][4:] == b"data"
    place.run(another_server, links=False, port=3500)
    place.run(next_start, links=False)
    assert classifiers(lab) == 0


def test_an_interface_that_vanishes_takes_its_attachment_along(lab, place) -> None:
    """And one of the same name that comes later gets its own."""
    add = ["ip", "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b"]
    setup = [["ip", "address", "add", "192.0.2.1/24", "dev", "veth-a"]]
    setup += [["ip", "link", "set", each, "up"] for each in ("veth-a", "veth-b")]
    key = ShortcutKey(Address("192.0.2.2", 4000), Address("192.0.2.1", 3478), NUMBER)

    def lay() -> None:
        for command in (add, *setup):
            subprocess.run(command, check=True)

    def cut() -> None:
        subprocess.run(["ip", "link", "del", "veth-a"], check=True)

    async def story(accelerator: Accelerator) -> None:
        async def settled(interfaces: tuple[str, ...], entries: int) -> None:
            def now() -> tuple[tuple[str, ...], int]:
                return accelerator.status().interfaces, accelerator.status().entries

            await until(lambda: now() == (interfaces, entries))

        lay()
        accelerator.install(key, place.shortcut(60), place.budgets)
        await settled(("veth-a",), 1)
        cut()
        await settled((), 0)
        lay()
        await settled(("veth-a",), 1)
        cut()
        await settled((), 0)

    place.run(story)
    assert place.broke == []


@pytest.mark.parametrize(
    "what",
    [
        "attach.Attachments.attach",
        "program.ShortcutProgram.put",
        "program.ShortcutProgram.read",
        "program.ShortcutProgram.remove",
    ],
)
def test_when_the_kernel_refuses_anything_user_space_goes_on_alone(
    lab, place, monkeypatch, what: str
) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async def story(accelerator: Accelerator) -> None:
        monkeypatch.setattr(f"knothole.io.bpf.{what}", refused)
        accelerator.install(place.key, place.shortcut(60), place.budgets)
        if what.endswith("remove"):
            accelerator.remove(place.key)
        await until(lambda: bool(place.broke))
        assert place.broke == ["no rights: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"]
        assert not accelerator.status().on
        assert not accelerator.is_on, "what is new goes by routes"
        assert attached_programs(lab, "server", "eth0") == 0
        accelerator.install(place.key, place.shortcut(60), place.budgets)
        accelerator.remove(place.key)
        assert attached_programs(lab, "server", "eth0") == 0
        assert len(place.broke) == 1
        place.send()
        assert place.listener.receive()[0][4:] == b"data"

    place.run(story)


def test_when_the_kernel_refuses_the_first_of_many_the_others_are_left_alone(
    lab, place, monkeypatch
) -> None:
    troubles: list[dict[str, object]] = []

    def refused(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def set_mtu(mtu: int) -> None:
        subprocess.run(["ip", "link", "set", "eth0", "mtu", str(mtu)], check=True)

    async def story(accelerator: Accelerator) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, each: troubles.append(each))
        for number in range(3):
            key = place.key._replace(channel=NUMBER + number)
            accelerator.install(key, place.shortcut(60), place.budgets)
        monkeypatch.setattr("knothole.io.bpf.program.ShortcutProgram.put", refused)
        set_mtu(1400)
        try:
            accelerator._network_changed()
            await until(lambda: bool(place.broke))
            await asyncio.sleep(0)
        finally:
            set_mtu(1500)

    place.run(story)
    assert len(place.broke) == 1
    assert troubles == []


def test_closing_leaves_no_descriptor_and_no_task(place) -> None:
    async def story(accelerator: Accelerator) -> None:
        accelerator.install(place.key, place.shortcut(60), place.budgets)

    place.run(story)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        place.run(story)
    assert len(os.listdir("/proc/self/fd")) == before
    with contextlib.suppress(TimeoutError):
        place.peer.receive(0.01)

"""Several relay processes as one relay: for many cores where the kernel does not relay by itself.

All of them listen on the same addresses. The kernel keeps each client's UDP at one of them, and
here that is done for TCP: an allocation is with one process from its beginning to its end.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import sys
from collections.abc import Collection, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from knothole.io.udp_bind import bind_shared
from knothole.server.link import (
    Answer,
    Change,
    Commit,
    Done,
    Look,
    Order,
    Prepare,
    RelaySettings,
    RelayStart,
    TakeListening,
    TakeNeighbour,
    Tell,
)
from knothole.server.listener import cannot_listen
from knothole.server.neighbours import neighbour_pair
from knothole.server.relay_link import ProcessRelay, RelayGone

if TYPE_CHECKING:
    from knothole.server.config import ServerConfig
    from knothole.wire.address import Address

_T = TypeVar("_T")

# Ours, as in relay_process: the relay processes of a server that was killed are about to notice.
IN_USE_TRIES: Final = 10
IN_USE_SECONDS: Final = 0.05


def usable_processes(
    config: ServerConfig, relay_hosts: dict[str, str], machine: Collection[str]
) -> tuple[int, str]:
    """How many relay processes there are to be, and why: fewer, or without the accelerator.

    Within a running event loop.
    """
    if config.relay_processes == 1:
        return 1, ""
    if sys.platform != "linux":
        return 1, "one relay process: this system cannot keep a client at one of several"
    if not config.accelerator or not config.allocations:
        return config.relay_processes, ""
    from knothole.server.accelerator import make_accelerator

    accelerator = make_accelerator(
        True,
        port=config.port,
        relay_hosts=relay_hosts,
        machine=machine,
        passed=lambda key, count: None,
        broke=lambda reason: None,
    )
    status = accelerator.status()
    accelerator.close()
    if status.on:
        return 1, "one relay process: the accelerator is on, which uses all cores by itself"
    return config.relay_processes, f"accelerator: off: {status.reason}"


class RelayGroup:
    """``processes`` relay processes, two or more. Linux."""

    def __init__(self, tell: Tell, processes: int) -> None:
        self.processes = processes
        self._members = [ProcessRelay(tell) for _ in range(processes)]

    def spawn(self) -> None:
        for member in self._members:
            member.spawn()

    async def start(self, start: RelayStart) -> None:
        settings = self._share(start.settings)
        for address in start.listening:
            # All there before any process serves, or clients would change places.
            sockets = await self._bind(address)
            for member, sock in zip(self._members, sockets, strict=True):
                member.give(TakeListening(*address), sock)
        for one, other in itertools.combinations(range(self.processes), 2):
            ends = neighbour_pair()
            self._members[one].give(TakeNeighbour(other), ends[0])
            self._members[other].give(TakeNeighbour(one), ends[1])
        starts = [
            msgspec.structs.replace(
                start,
                settings=settings,
                accelerator=False,
                processes=self.processes,
                number=number,
            )
            for number in range(self.processes)
        ]
        pairs = zip(self._members, starts, strict=True)
        await _together(*(member.start(each) for member, each in pairs))

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        # RFC 6062 has connections that belong together: they come from one host. The hash has a
        # key of this process's: nobody can choose addresses that go to one member.
        self._members[hash(remote[0]) % self.processes].take(sock, remote)

    async def ask(self, order: Order, seconds: float) -> list[Answer]:
        if isinstance(order, Look):
            asked = (member.ask(order, seconds) for member in self._members)
            reports = await asyncio.gather(*asked, return_exceptions=True)
            return [each for found in reports for each in _unless_late(found)]
        if not isinstance(order, Change):
            return await self._ask_all(order, seconds)
        # All of them get ready before the first one changes anything: what one refuses, none has.
        answers = await self._ask_all(Prepare(self._share(order.settings)), seconds)
        if any(isinstance(answer, Done) and answer.refused for answer in answers):
            return answers
        # One that is late with this does it as soon as it reads it, and cannot refuse.
        asked = (member.ask(Commit(), seconds) for member in self._members)
        done = await asyncio.gather(*asked, return_exceptions=True)
        return [each for found in done for each in _unless_late(found)]

    async def _ask_all(self, order: Order, seconds: float) -> list[Answer]:
        asked = (member.ask(order, seconds) for member in self._members)
        return [answer for each in await _together(*asked) for answer in each]

    async def wait_gone(self) -> str:
        waiting = [asyncio.create_task(member.wait_gone()) for member in self._members]
        try:
            gone, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(gone)).result()
        finally:
            await _cancel(waiting)

    async def stop(self) -> None:
        await asyncio.gather(*(member.stop() for member in self._members))

    def _share(self, settings: RelaySettings) -> RelaySettings:
        return msgspec.structs.replace(settings, shares=self.processes)

    async def _bind(self, address: Address) -> list[socket.socket]:
        for left in reversed(range(IN_USE_TRIES)):
            try:
                return bind_shared(address, self.processes)
            except OSError as error:
                if not left or error.errno != errno.EADDRINUSE:
                    raise RelayGone(cannot_listen("udp", address, error).strerror) from error
            await asyncio.sleep(IN_USE_SECONDS)
        raise AssertionError("the last try returns or raises")


def _unless_late(answers: list[Answer] | BaseException) -> list[Answer]:
    if isinstance(answers, TimeoutError):
        return []
    if isinstance(answers, BaseException):
        raise answers
    return answers


async def _together(*work: Coroutine[Any, Any, _T]) -> list[_T]:
    """All results; when one fails the others end."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: list[asyncio.Task[_T]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

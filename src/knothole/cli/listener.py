"""Taking lines as they come: what ``knothole listen`` does with each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from knothole.apps import chat, pipe
from knothole.apps.echo import echo
from knothole.cli.network import Network
from knothole.cli.output import Output
from knothole.cli.pipe import join_standard
from knothole.cli.session import HOW, PING, announce
from knothole.cli.shown import fitted
from knothole.peer.accept import Taking
from knothole.peer.errors import KnotholeError
from knothole.peer.line import Line
from knothole.peer.peer import Peer

LONGEST_APP: Final = 40  # characters shown: the caller may call it anything

Handler: TypeAlias = Callable[[Line], Awaitable[None]]


class Reception:
    """Lines that come go each to the handler of its app, in a task of its own.

    Pings only need the line to be there. What has no handler is not taken; the handler for None
    takes every app that this program has no name for. With ``one_at_a_time`` a second line finds
    us busy while the first lasts, with ``once`` the first one ends it all.
    """

    def __init__(
        self,
        output: Output,
        handlers: Mapping[str | None, Handler],
        *,
        once: bool = False,
        one_at_a_time: bool = False,
    ) -> None:
        self._output = output
        self._handlers = handlers
        self._once = once
        self._one_at_a_time = one_at_a_time
        self._busy_with: Line | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def takes(self, name: str, app: str) -> Taking:
        """Whether a line of ``app`` is taken now; for the argument of Peer."""
        if self._handler(app) is None:
            turned_away(self._output, name, app, "it is not taken here")
            return Taking.NO
        if app != PING and self._one_at_a_time and self._busy_with and self._busy_with.silent:
            self._busy_with.close("nothing was heard any more, and somebody else calls")
            self._busy_with = None
        if app != PING and self._busy_with is not None and self._one_at_a_time:
            turned_away(self._output, name, app, f"{self._busy_with.peer_name} is here")
            return Taking.BUSY
        return Taking.YES

    async def run(self, peer: Peer) -> None:
        """Take lines until one was enough. Raises what that one has raised."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        accepting = asyncio.create_task(self._accept(peer, over))
        watching = asyncio.create_task(watch_server(self._output, peer))
        try:
            await asyncio.wait([accepting, watching, over], return_when=asyncio.FIRST_COMPLETED)
            for each in (over, accepting, watching):
                if each.done():
                    each.result()
        finally:
            for task in (accepting, watching, *self._tasks):
                task.cancel()
            await asyncio.gather(accepting, watching, *self._tasks, return_exceptions=True)

    async def _accept(self, peer: Peer, over: asyncio.Future[None]) -> None:
        async for line in peer.incoming():
            task = asyncio.create_task(self._take(line, over))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, line: Line, over: asyncio.Future[None]) -> None:
        counts = line.app != PING
        handler = self._handler(line.app)
        try:
            async with line:
                if handler is None or (counts and self._one_at_a_time and self._busy_with):
                    line.close("busy with somebody else")  # two came in the same moment
                    return
                if counts:
                    self._busy_with = line
                failure = await self._handle(line, handler)
            if counts:
                self._busy_with = None
            if counts and self._once and not over.done():
                if failure is not None:
                    raise failure
                over.set_result(None)
        except Exception as error:
            if not over.done():
                over.set_exception(error)

    async def _handle(self, line: Line, handler: Handler) -> KnotholeError | None:
        failure: KnotholeError | None = None
        try:
            await announce(self._output, line, always_words=line.app == chat.APP)
            await handler(line)
        except KnotholeError as error:
            failure = error
        why = str(failure) if failure is not None else line.close_reason
        text = f"The line with {line.peer_name} is over: {why}"
        self._output.note("over", text, peer=line.peer_name, app=line.app, why=why)
        return failure

    def _handler(self, app: str) -> Handler | None:
        if app == PING:
            return _wait_closed
        return self._handlers.get(app, self._handlers.get(app if app in HOW else None))


def turned_away(output: Output, name: str, app: str, why: str) -> None:
    """Tell that somebody's call was not taken."""
    wanted = fitted(app, LONGEST_APP) or "a plain line"
    text = f"{name} was turned away ({wanted}): {why}."
    output.note("turned-away", text, peer=name, app=app, why=why)


async def echo_all(output: Output, accept: str, once: bool, network: Network) -> int:
    """``listen --echo``: everything goes back to where it came from; calls are not taken."""
    handlers: dict[str | None, Handler] = {None: echo, pipe.APP: echo, chat.APP: echo}
    return await _listen(output, accept, Reception(output, handlers, once=once), network)


async def chat_with_all(output: Output, accept: str, once: bool, network: Network) -> int:
    """``listen``: chats on the terminal, one after the other."""
    from knothole.cli.chat import converse
    from knothole.cli.terminal import Piped

    typed = Piped()

    async def chat_with(line: Line) -> None:
        await converse(output, line, typed, leave_at_end=False)

    reception = Reception(output, {chat.APP: chat_with}, once=once, one_at_a_time=True)
    return await _listen(output, accept, reception, network)


async def take_pipe(output: Output, accept: str, network: Network) -> int:
    """``listen --pipe``: the first pipe gets stdin and stdout."""
    reception = Reception(output, {pipe.APP: join_standard}, once=True, one_at_a_time=True)
    return await _listen(output, accept, reception, network)


async def watch_server(output: Output, peer: Peer) -> None:
    """Tell when the server goes away and when it is back."""
    server = peer.profile.server.host
    async for online in peer.online_changes():
        if online:
            output.note("online", f"Back on {server}: you can be called again.", server=server)
        else:
            output.note(
                "offline", f"The server {server} is away; trying again meanwhile.", server=server
            )


async def _listen(output: Output, accept: str, reception: Reception, network: Network) -> int:
    async with Peer(accept=accept, takes=reception.takes, **network.for_peer()) as peer:
        output.result("ready", "ready", name=peer.name)
        await reception.run(peer)
    return 0


async def _wait_closed(line: Line) -> None:
    await line.wait_closed()

"""``knothole serve``"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from knothole.cli.output import Failure, Output, WrongUsage

if TYPE_CHECKING:
    from knothole.server.config import ServerConfig
    from knothole.server.operation import Operation
    from knothole.server.server import Server


def serve(
    *,
    host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    port: int | None = None,
    also_listen: Annotated[tuple[int, ...], Parameter(negative=())] = (),
    data: Path | None = None,
    config: Path | None = None,
    classic_stun: bool = False,
    relay_only: bool = False,
    relay_host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    allow_peer: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    no_accelerator: bool = False,
    relay_processes: int | None = None,
    json: bool = False,
) -> int:
    """Run a server: switchboard, STUN and TURN on one port number.

    Prints `ready knothole://...`, the address to give to `knothole join`, once it serves; with
    --relay-only a line `ready turn:HOST:PORT` for each address.

    Example: knothole serve --also-listen 443

    Example: knothole serve --relay-only --host 203.0.113.5

    Parameters
    ----------
    host
        An address to listen on; may be given again. Default: all of this machine.
    port
        UDP and TCP port. Default: 3478.
    also_listen
        A further TCP port, 443 for instance; may be given again.
    data
        Folder for the accounts and the server's own key.
    config
        TOML file; docs/server.md lists its keys.
    classic_stun
        Answer STUN clients of RFC 3489, too.
    relay_only
        STUN and TURN alone: no switchboard, no accounts.
    relay_host
        An address of this machine for relayed addresses; may be given again. Default: the widest
        known one of each family.
    allow_peer
        A network, CIDR, that clients may reach through the relay although it is not public; may
        be given again.
    no_accelerator
        Do not have the Linux kernel relay what it can.
    relay_processes
        How many processes relay where the kernel does not. Default: 1.
    json
        One JSON object per line.
    """
    from knothole.cli.server_folder import default_data
    from knothole.io.loop import run_loop
    from knothole.server.config import ConfigError, UsageError, load_config
    from knothole.server.heap import map_large_blocks

    load = partial(
        load_config,
        config,
        default_data=default_data(),
        data=data,
        hosts=host,
        port=port,
        also_listen=also_listen,
        classic_stun=classic_stun,
        relay_only=relay_only,
        relay_hosts=relay_host,
        allow_peers=allow_peer,
        accelerator=not no_accelerator,
        relay_processes=relay_processes,
    )
    try:
        settings = load()
    except UsageError as error:
        raise WrongUsage(f"{error}.") from error
    except ConfigError as error:
        raise Failure(str(error)) from error
    map_large_blocks()
    return run_loop(_serve(settings, load, Output(json=json)), readers=True)


async def _serve(settings: ServerConfig, load: Callable[[], ServerConfig], output: Output) -> int:
    from knothole.server.server import Server, ServerError

    server = Server(settings, partial(_say, output), load)
    work = asyncio.create_task(_run(server, output))
    _on_signals(server, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass  # Ctrl-C and SIGTERM are how a server is meant to end
    except ServerError as error:
        raise Failure(str(error)) from error
    return 0


def _say(output: Output, event: str, text: str) -> None:
    from knothole.cli.journal import for_journal, is_journal, level_of

    line = for_journal(event, text) if is_journal(sys.stderr, os.environ) else text
    output.note(event, line, level=level_of(event), text=text)


async def _run(server: Server, output: Output) -> None:
    try:
        url = await server.start()
        for line in server.ports.to_open():
            output.note("port", f"open in the firewall: {line}", level="info", text=line)
        if server.advice:
            _say(output, "advice", server.advice)
        if output.json:
            output.result("ready", "", level="info", url=url and str(url), uris=server.turn_uris)
        else:
            for address in [url] if url else server.turn_addresses:
                output.result("ready", f"ready {address}")
        await server.run()
    finally:
        await asyncio.shield(server.stop())


def _on_signals(server: Server, stop: Callable[[], object]) -> None:
    from knothole.server.operation import NotChanged

    loop = asyncio.get_running_loop()
    begun: set[asyncio.Task[None]] = set()
    had_terminal = sys.stdin.isatty()

    async def carry_out(what: Callable[[Operation], Awaitable[object]]) -> None:
        if server.operation is not None:
            with contextlib.suppress(NotChanged):  # it has been said
                await what(server.operation)

    def begin(what: Callable[[Operation], Awaitable[object]]) -> None:
        if had_terminal and not sys.stdin.isatty():
            stop()  # SIGHUP of old: the terminal was closed
            return
        task = asyncio.create_task(carry_out(what))
        begun.add(task)
        task.add_done_callback(begun.discard)

    def interrupted() -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has shown ^C
        stop()

    for number, handler in ((signal.SIGINT, interrupted), (signal.SIGTERM, stop)):
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:  # Windows: Ctrl-C cancels the whole program
            return
    loop.add_signal_handler(signal.SIGHUP, begin, lambda operation: operation.reload())
    loop.add_signal_handler(signal.SIGUSR1, begin, lambda operation: operation.drain())

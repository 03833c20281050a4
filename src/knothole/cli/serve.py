"""``knothole serve``"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from knothole.cli.output import Failure, Output, WrongUsage

if TYPE_CHECKING:
    from knothole.server.config import ServerConfig
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
    json
        One JSON object per line.
    """
    from knothole.cli.server_folder import default_data
    from knothole.io.loop import run_loop
    from knothole.server.config import ConfigError, UsageError, load_config

    try:
        settings = load_config(
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
        )
    except UsageError as error:
        raise WrongUsage(f"{error}.") from error
    except ConfigError as error:
        raise Failure(str(error)) from error
    return run_loop(_serve(settings, Output(json=json)), readers=True)


async def _serve(settings: ServerConfig, output: Output) -> int:
    from knothole.server.server import Server, ServerError

    server = Server(settings, lambda event, text: output.note(event, text, text=text))
    work = asyncio.create_task(_run(server, output))
    _on_signals(work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass  # Ctrl-C and SIGTERM are how a server is meant to end
    except ServerError as error:
        raise Failure(str(error)) from error
    return 0


async def _run(server: Server, output: Output) -> None:
    try:
        url = await server.start()
        for line in server.ports.to_open():
            output.note("port", f"open in the firewall: {line}", text=line)
        if server.advice:
            output.note("advice", server.advice, text=server.advice)
        if output.json:
            output.result("ready", "", url=url and str(url), uris=server.turn_uris)
        else:
            for address in [url] if url else server.turn_addresses:
                output.result("ready", f"ready {address}")
        await server.run()
    finally:
        await asyncio.shield(server.stop())


def _on_signals(stop: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows: Ctrl-C cancels the whole program
            return

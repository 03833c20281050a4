"""``knothole serve``"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from knothole.cli.output import Failure, Output
from knothole.io.loop import run_loop
from knothole.peer.profile import profile_folder
from knothole.server.config import ConfigError, ServerConfig, load_config
from knothole.server.server import Server, ServerError


def serve(
    *,
    host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    port: int | None = None,
    also_listen: Annotated[tuple[int, ...], Parameter(negative=())] = (),
    data: Path | None = None,
    config: Path | None = None,
    json: bool = False,
) -> int:
    """Run a server: switchboard, STUN and TURN on one port number.

    Prints `ready knothole://...`, the address to give to `knothole join`, once it serves.

    Example: knothole serve --also-listen 443

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
    json
        One JSON object per line.
    """
    output = Output(json=json)
    try:
        settings = load_config(
            config,
            hosts=host,
            port=port,
            also_listen=also_listen,
            data=data or profile_folder() / "server",
        )
    except ConfigError as error:
        raise Failure(str(error)) from error
    return run_loop(_serve(settings, output))


async def _serve(settings: ServerConfig, output: Output) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = Server(settings, lambda text: output.note("server", text, what=text))
    try:
        url = await server.start()
    except ServerError as error:
        raise Failure(str(error)) from error
    try:
        for line in server.ports_to_open():
            output.note("port", f"open in the firewall: {line}", what=line)
        output.result("ready", f"ready {url}", url=str(url))
        running = asyncio.create_task(server.run())
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        ended = running.exception() if running.done() else None
        running.cancel()
        if ended is not None:
            raise Failure(str(ended))
    finally:
        await server.stop()
    return 0

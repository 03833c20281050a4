"""``knothole server drain``"""

from __future__ import annotations

from knothole.cli.options import Config, Data, Json
from knothole.cli.output import Output


def drain(
    *,
    undo: bool = False,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Let your server's relay run out: no new allocations, while those that exist go on.

    New ones are refused with 508 (Insufficient Capacity), registered clients are told not to ask,
    and /healthz says 503. Calls are rung and made as before. SIGUSR1 does the same.

    Example: knothole server drain --config /etc/knothole/server.toml

    Parameters
    ----------
    undo
        Take new allocations again.
    """
    from knothole.cli.server_folder import ask_server, server_settings
    from knothole.server.control import Request

    reply = ask_server(server_settings(data, config), Request("drain", draining=not undo))
    Output(json=json).result("drain", reply.text, draining=not undo)
    return 0

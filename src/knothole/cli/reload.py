"""``knothole server reload``"""

from __future__ import annotations

from pathlib import Path

from knothole.cli.options import Data, Json
from knothole.cli.output import Failure, Output


def reload(*, data: Data = None, config: Path | None = None, json: Json = False) -> int:
    """Have your server read its configuration file, certificate and secrets again.

    As SIGHUP does, but it says what came of it. With a mistake in the file everything stays as it
    was, and the exit code is 1. What needs a restart is named.

    Example: knothole server reload --config /etc/knothole/server.toml

    Parameters
    ----------
    config
        The configuration file that the server is started with; read here only for its `data`.
    """
    from knothole.cli.server_folder import ask_server, server_settings
    from knothole.server.control import Request

    try:
        settings = server_settings(data, config)
    except Failure as error:  # the server would say the same, if it could be found
        raise Failure(f"not reloaded, the settings stay as they were: {error}") from error
    reply = ask_server(settings, Request("reload"))
    needs_restart = reply.facts["restart"]
    Output(json=json).result("reload", reply.text, restart=needs_restart)
    return 0

"""Which server a command is about: its data folder and its configuration."""

from __future__ import annotations

from pathlib import Path

from knothole.cli.output import Failure
from knothole.server.config import ConfigError, ServerConfig, load_config
from knothole.server.control import NoServer, Reply, Request, ask


def default_data() -> Path:
    """Where accounts and key are when neither the command line nor the file says."""
    from knothole.peer.profile import profile_folder

    return profile_folder() / "server"


def server_settings(data: Path | None, config: Path | None) -> ServerConfig:
    """What ``--data`` and ``--config`` of a command say. Raises Failure."""
    try:
        return load_config(config, default_data=default_data(), data=data)
    except ConfigError as error:
        raise Failure(str(error)) from error


def ask_server(settings: ServerConfig, request: Request) -> Reply:
    """Have the running server do something. Raises Failure when there is none, or it cannot."""
    try:
        reply = ask(settings.data, request)
    except NoServer as error:
        raise Failure(str(error)) from error
    if reply.failed:
        raise Failure(reply.text)
    return reply

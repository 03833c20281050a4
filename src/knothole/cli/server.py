"""``knothole server``: what an operator does with a server besides starting it."""

from __future__ import annotations

from cyclopts import App

from knothole.cli.credentials import credentials
from knothole.cli.drain import drain
from knothole.cli.reload import reload
from knothole.cli.revoke import revoke
from knothole.cli.rotate_secret import rotate_secret
from knothole.cli.server_status import status

app = App(
    name="server",
    help="Run your server: who may use its relay, and how it does.\n\n"
    "Example: knothole server status",
    version_flags=(),
    group_parameters="Options",
)
for command in (status, credentials, revoke, rotate_secret, reload, drain):
    app.command(command)

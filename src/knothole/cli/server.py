"""``knothole server``: what an operator does with a server besides starting it."""

from __future__ import annotations

from cyclopts import App

from knothole.cli.credentials import credentials

app = App(
    name="server",
    help="Run your server: who may use its relay, and how it does.\n\n"
    "Example: knothole server credentials alice",
    version_flags=(),
    group_parameters="Options",
)
app.command(credentials)

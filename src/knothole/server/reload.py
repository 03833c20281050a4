"""Which part of a configuration can be changed while the server runs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Final

from knothole.server.config import ServerConfig

LIVE: Final = frozenset(
    {
        "certificate",
        "key",
        "allow_peers",
        "deny_peers",
        "allocations",
        "allocations_per_user",
        "allocations_per_network",
        "max_megabits",
        "max_datagrams",
        "new_peers_per_minute",
        "alternates",
        "users",
        "oauth",
        "secret_file",
        "other_turn",
        "invitation_required",
    }
)
"""Fields that change at once."""

KEYS: Final = {
    "data": "data",
    "mobility": "relay.mobility",
    "hosts": "host",
    "port": "port",
    "also_listen": "also-listen",
    "name": "name",
    "discovery_port": "discovery-port",
    "external": "relay.external",
    "relay_hosts": "relay.host",
    "relay_processes": "relay.processes",
    "classic_stun": "classic-stun",
    "relay_only": "relay-only",
    "accelerator": "relay.accelerator",
    "metrics": "metrics.listen",
}
"""The other fields by their keys in the file: they need a restart."""

PORT_KEYS: Final = ("relay.first-port", "relay.last-port")
"""Those of ``relay_ports``: they, too."""


def applied(running: ServerConfig, wanted: ServerConfig) -> tuple[ServerConfig, list[str]]:
    """What of ``wanted`` a server that runs with ``running`` can have at once.

    The configuration that is then in force, and the keys of what needs a restart.
    """
    live = set(LIVE)
    restart = [key for field, key in KEYS.items() if _differ(field, running, wanted)]
    ports = zip(PORT_KEYS, running.relay_ports, wanted.relay_ports, strict=True)
    restart += [key for key, before, after in ports if before != after]
    if (running.certificate is None) != (wanted.certificate is None):
        # Clients know this server by its key or by its name: the printed address changes.
        live -= {"certificate", "key"}
        restart.append("tls")
    changes = {
        each.name: getattr(wanted, each.name) for each in fields(wanted) if each.name in live
    }
    return replace(running, **changes), restart


def _differ(field: str, running: ServerConfig, wanted: ServerConfig) -> bool:
    return bool(getattr(running, field) != getattr(wanted, field))

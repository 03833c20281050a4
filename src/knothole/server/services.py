"""What a registered client is handed: STUN and TURN servers with short-lived credentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from knothole.engine.turn.credentials import rest_credentials, rest_name
from knothole.server.config import ServerConfig
from knothole.wire.address import Transport
from knothole.wire.signal.messages import Services
from knothole.wire.signal.values import TurnService
from knothole.wire.turn_uri import SELF_HOST, format_server_uri

REALM: Final = "knothole"
CREDENTIAL_SECONDS: Final = 6 * 3600  # ours: renewed over the signalling at half of it


class ServiceDesk:
    """Makes the services of each session, in the REST style that other servers understand too.

    ``secret`` is what the own relay verifies credentials with.
    """

    def __init__(
        self, config: ServerConfig, secret: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._secret = secret
        self._clock = clock
        # The first is the one to keep a mapping warm with; the others are there to be asked once.
        ports = [config.port] + ([config.discovery_port] if config.discovery_port else [])
        self._stun = tuple(f"stun:{SELF_HOST}:{port}" for port in ports)
        self._own = (
            format_server_uri(SELF_HOST, config.port, Transport.UDP),
            *(
                format_server_uri(SELF_HOST, port, Transport.TLS)
                for port in (config.port, *config.also_listen)
            ),
            format_server_uri(SELF_HOST, config.port, Transport.TCP),
        )

    def services(self, session_id: str, name: str) -> Services:
        """For one session. Its TURN user is the session: people's names stay with the switchboard,
        and what the relay sees of a user can be told to that session."""
        turn = [
            self._service(other.uris, other.secret, session_id, other.realm)
            for other in self._config.other_turn
        ]
        if self._config.allocations:
            turn.insert(0, self._service(self._own, self._secret, session_id, REALM))
        return Services(turn=tuple(turn), stun=self._stun)

    def _service(
        self, uris: tuple[str, ...], secret: str | bytes, session_id: str, realm: str
    ) -> TurnService:
        credentials = rest_credentials(secret, session_id, CREDENTIAL_SECONDS, self._clock())
        return TurnService(
            uris=uris,
            username=credentials.username,
            password=credentials.password,
            realm=realm,
            lifetime_seconds=CREDENTIAL_SECONDS,
        )


def session_of(username: str) -> str:
    """The session that a TURN user name was made for."""
    return rest_name(username)

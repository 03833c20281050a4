"""What a registered client is handed: STUN and TURN servers with short-lived credentials."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.turn.credentials import (
    DEVICE_SEPARATOR,
    rest_credentials,
    rest_name,
)
from knothole.server.config import OtherTurn, ServerConfig
from knothole.server.whereabouts import turn_uris
from knothole.wire.signal.messages import Services
from knothole.wire.signal.values import TurnService
from knothole.wire.turn_uri import SELF_HOST

REALM: Final = "knothole"
CREDENTIAL_SECONDS: Final = 6 * 3600  # ours: renewed over the signalling at half of it


@dataclass(frozen=True, slots=True)
class Offer:
    """What is handed out; the own relay only while it ``relays``."""

    secret: str = field(repr=False)
    other_turn: tuple[OtherTurn, ...]
    relays: bool


class ServiceDesk:
    """Makes the services of each session, in the REST style that other servers understand too.

    ``secret`` is what the own relay verifies credentials with.
    """

    def __init__(
        self, config: ServerConfig, secret: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.offer = Offer(secret, config.other_turn, config.allocations > 0)
        """What is offered from now on; sessions that have theirs are not told by this."""
        self._clock = clock
        self._pseudonym_key = secrets.token_bytes(32)
        # The first is the one to keep a mapping warm with; the others are there to be asked once.
        ports = [config.port] + ([config.discovery_port] if config.discovery_port else [])
        self._stun = tuple(f"stun:{SELF_HOST}:{port}" for port in ports)
        self._own = tuple(turn_uris([SELF_HOST], config.port, config.also_listen))

    def services(self, session_id: str, name: str) -> Services:
        """For one session. Its TURN user is the account, under a pseudonym: people's names stay
        with the switchboard, a client that registers anew goes on with its allocations, and all its
        devices have one quota. The session is told with it, so that what the relay sees of a user
        can be told to that session."""
        user = f"{self._pseudonym(name)}{DEVICE_SEPARATOR}{session_id}"
        turn = [
            self._service(other.uris, other.secret, user, other.realm)
            for other in self.offer.other_turn
        ]
        if self.offer.relays:
            turn.insert(0, self._service(self._own, self.offer.secret, user, REALM))
        return Services(turn=tuple(turn), stun=self._stun)

    def _service(
        self, uris: tuple[str, ...], secret: str | bytes, user: str, realm: str
    ) -> TurnService:
        credentials = rest_credentials(secret, user, CREDENTIAL_SECONDS, self._clock())
        return TurnService(
            uris=uris,
            username=credentials.username,
            password=credentials.password,
            realm=realm,
            lifetime_seconds=CREDENTIAL_SECONDS,
        )

    def _pseudonym(self, name: str) -> str:
        digest = hmac.digest(self._pseudonym_key, name.encode(), "sha256")
        return base64.b32encode(digest[:10]).decode().lower()


def session_of(username: str) -> str:
    """The session that a TURN user name was made for."""
    return rest_name(username).partition(DEVICE_SEPARATOR)[2]

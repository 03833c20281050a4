"""Who may use the relay, as its settings say: one authenticator made of several."""

from __future__ import annotations

from knothole.engine.turn.credentials import AnyOf, LongTermUsers, RestUsers, User
from knothole.engine.turn.tokens import TokenKey, TokenUsers
from knothole.server.link import RelaySettings
from knothole.wire.stun import Algorithm


class RelayUsers:
    """An :class:`~knothole.engine.turn.credentials.Authenticator` whose settings may change.

    After a change, and after the wall clock was set, ask the engine to recheck what there is.
    """

    def __init__(self, realm: str, settings: RelaySettings, unix_at_zero: float) -> None:
        self._realm, self._unix_at_zero = realm, unix_at_zero
        self.tokens = TokenUsers((), unix_at_zero)
        """Those whom another server vouches for."""
        self.apply(settings)

    def apply(self, settings: RelaySettings) -> None:
        """Know those whom ``settings`` name, and nobody else."""
        self._rest = RestUsers(self._realm, settings.secrets, self._unix_at_zero)
        self._users = AnyOf(LongTermUsers(self._realm, settings.users), self._rest)
        self.tokens.set_keys(
            [TokenKey(each.kid, each.key, each.server_name) for each in settings.oauth]
        )

    @property
    def unix_at_zero(self) -> float:
        """The UNIX time at which the engine's clock was 0."""
        return self._unix_at_zero

    @unix_at_zero.setter
    def unix_at_zero(self, unix_at_zero: float) -> None:
        self._unix_at_zero = unix_at_zero
        self._rest.unix_at_zero = self.tokens.unix_at_zero = unix_at_zero

    def user(self, username: str, algorithm: Algorithm, now: float) -> User | None:
        return self._users.user(username, algorithm, now)

    def valid_until(self, username: str, now: float) -> float | None:
        return self._users.valid_until(username, now)

    def username_of(self, hashed: bytes) -> str | None:
        return self._users.username_of(hashed)

    @property
    def knows_hashes(self) -> bool:
        return self._users.knows_hashes

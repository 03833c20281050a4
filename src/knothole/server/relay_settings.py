"""What of a relay may change while it serves, applied to its parts: all of it or nothing."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from OpenSSL import SSL

from knothole.engine.rate import Rate
from knothole.engine.turn.policy import PeerPolicy
from knothole.engine.turn.quota import Limits
from knothole.server.dtls import DtlsServer
from knothole.server.link import (
    Answer,
    Change,
    Commit,
    Done,
    Drain,
    Look,
    Order,
    Prepare,
    RelaySettings,
)
from knothole.server.relay_report import Reporter
from knothole.server.relay_users import RelayUsers
from knothole.server.tls_context import ALPN_DISCOVERY, ALPN_TURN, server_context
from knothole.wire.address import Address

NEW_PEERS_AT_ONCE: Final = 128  # ours: as many as an allocation can have permissions for


def policy_of(settings: RelaySettings) -> PeerPolicy:
    """Raises ValueError."""
    return PeerPolicy(
        tuple(ip_network(text) for text in settings.allow_peers),
        tuple(ip_network(text) for text in settings.deny_peers),
    )


def limits_of(settings: RelaySettings) -> Limits:
    """What one process may grant: all of them together, no more than the settings say."""
    shares, unproven = settings.shares, Limits().unproven
    return Limits(
        allocations=settings.allocations // shares,
        allocations_per_user=settings.allocations_per_user // shares,
        allocations_per_network=settings.allocations_per_network // shares,
        datagrams_per_second=settings.max_datagrams,
        octets_per_second=settings.max_megabits * 1_000_000 / 8,
        new_peers=Rate(NEW_PEERS_AT_ONCE / shares, settings.new_peers_per_minute / 60 / shares),
        unproven=Rate(unproven.burst / shares, unproven.per_second / shares),
    )


def _alternates(settings: RelaySettings) -> tuple[Address, ...]:
    return tuple(Address(*each) for each in settings.alternates)


def tls_of(settings: RelaySettings) -> ssl.SSLContext:
    """Raises OSError."""
    return server_context(settings.chain, settings.key, [ALPN_TURN, ALPN_DISCOVERY])


@dataclass(frozen=True)
class _Prepared:
    """Settings, and all that is made of them and may not be possible."""

    settings: RelaySettings
    policy: PeerPolicy
    limits: Limits
    context: ssl.SSLContext
    dtls: SSL.Context


class Steering:
    """Carries out the orders that the rendezvous process gives to a relay that serves.

    ``context`` is what TLS clients that come now are served with.
    """

    def __init__(
        self,
        settings: RelaySettings,
        context: ssl.SSLContext,
        users: RelayUsers,
        dtls: DtlsServer,
        reporter: Reporter,
    ) -> None:
        self.context = context
        self._users, self._dtls, self._reporter = users, dtls, reporter
        self._turn = reporter.turn
        self._prepared: _Prepared | None = None
        self._alternates = _alternates(settings)
        self._revoked: frozenset[str] = frozenset()
        self._revoke(settings.revoked, 0.0)  # nobody has anything yet

    def obey(self, order: Order, now: float) -> Answer:
        match order:
            case Change(settings):
                prepared = self._prepare(settings)
                return prepared if prepared.refused else self._commit(now)
            case Prepare(settings):
                return self._prepare(settings)
            case Commit():
                return self._commit(now)
            case Drain(draining):
                self._turn.is_draining = draining
                self._redirect()
                return Done()
            case Look(users):
                return self._reporter.report(users, now)

    def _prepare(self, settings: RelaySettings) -> Done:
        """All that can go wrong."""
        self._prepared = None
        try:
            self._prepared = _Prepared(
                settings,
                policy_of(settings),
                limits_of(settings),
                tls_of(settings),
                self._dtls.prepare(settings.chain, settings.key),
            )
        except (OSError, ValueError) as error:
            return Done(str(error))
        return Done()

    def _commit(self, now: float) -> Done:
        """What was prepared counts."""
        if self._prepared is None:
            return Done("no settings were prepared")
        prepared, self._prepared = self._prepared, None
        settings = prepared.settings
        self.context = prepared.context
        self._dtls.use(prepared.dtls)
        self._users.apply(settings)
        self._turn.set_policy(prepared.policy, now)
        self._turn.set_limits(prepared.limits, now)
        self._turn.recheck_credentials(now)
        self._alternates = _alternates(settings)
        self._redirect()
        self._revoke(settings.revoked, now)
        return Done()

    def _redirect(self) -> None:
        """Only while it drains: otherwise this server is as good as the others."""
        self._turn.redirect_to = self._alternates if self._turn.is_draining else ()

    def _revoke(self, owners: Sequence[str], now: float) -> None:
        for owner in self._revoked.difference(owners):
            self._turn.restore(owner)
        for owner in set(owners).difference(self._revoked):
            self._turn.revoke(owner, now)
        self._revoked = frozenset(owners)

"""What the server reads at its start and again at a reload: certificate, secrets, revocations."""

from __future__ import annotations

from dataclasses import dataclass, field

from knothole.server.certificate import (
    CertificateError,
    ServerCertificate,
    load_certificate,
    own_certificate,
)
from knothole.server.config import ServerConfig
from knothole.server.link import OauthKey, RelaySettings
from knothole.server.revocation import RevocationError, load_revoked, owners_of
from knothole.server.turn_secret import SecretError, load_secrets, own_secrets


class MaterialError(Exception):
    """Something cannot be read or used; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Material:
    """``secrets`` are what TURN credentials are made of, the one for new ones first; ``revoked``
    the names whose credentials are good no more."""

    certificate: ServerCertificate
    secrets: tuple[str, ...] = field(repr=False)
    revoked: tuple[str, ...]


def load_material(config: ServerConfig) -> Material:
    """All of it; what is missing in the data folder is made. Raises MaterialError."""
    try:
        if config.certificate is not None and config.key is not None:
            certificate = load_certificate(config.certificate, config.key, pinned=False)
        else:
            certificate = own_certificate(config.data)
        chosen = config.secret_file
        secrets = own_secrets(config.secrets_path) if chosen is None else load_secrets(chosen)
        return Material(certificate, secrets, load_revoked(config.data))
    except CertificateError as error:
        raise MaterialError(f"the TLS certificate cannot be used: {error}") from error
    except (SecretError, RevocationError) as error:
        raise MaterialError(str(error)) from error
    except OSError as error:
        reason = f"{error.strerror}: {error.filename or config.data}"
        raise MaterialError(f"the data folder cannot be used: {reason}") from error


def relay_settings(config: ServerConfig, material: Material) -> RelaySettings:
    """What the relay is told of both."""
    return RelaySettings(
        secrets=list(material.secrets),
        revoked=owners_of(material.revoked),
        allow_peers=[str(network) for network in config.allow_peers],
        deny_peers=[str(network) for network in config.deny_peers],
        allocations=config.allocations,
        allocations_per_user=config.allocations_per_user,
        chain=str(material.certificate.chain),
        key=str(material.certificate.key),
        allocations_per_network=config.allocations_per_network,
        max_megabits=config.max_megabits,
        max_datagrams=config.max_datagrams,
        new_peers_per_minute=config.new_peers_per_minute,
        users={user.name: user.password for user in config.users},
        alternates=[(host, port) for host, port in config.alternates],
        oauth=[OauthKey(each.kid, each.key, each.server_name) for each in config.oauth],
    )

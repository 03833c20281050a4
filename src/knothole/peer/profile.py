"""The profile folder: who I am, my server, and the keys of those I know.

The private key lies in a file only its owner can read: desktop keyrings fail on machines without
a desktop.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import platformdirs

from knothole.engine.secure.identity import Identity, MalformedIdentity
from knothole.engine.secure.pins import KnownPeer
from knothole.peer.contacts import Contacts
from knothole.peer.discretion import Policies
from knothole.peer.errors import ProfileError
from knothole.peer.files import replace_file
from knothole.peer.last_lines import LastLines
from knothole.wire.server_url import InvalidServerUrl, ServerUrl, parse_server_url

IDENTITY_FILE: Final = "identity.pem"
SETTINGS_FILE: Final = "profile.json"
CONTACTS_FILE: Final = "known_peers.json"
POLICIES_FILE: Final = "policies.json"
LAST_LINES_FILE: Final = "last_lines.json"


class _Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    server: str
    proxy: str | None = None


class Profile:
    """One person on one machine: what :class:`knothole.Peer` and every command start from.

    ``proxy`` is the URL of an HTTP proxy for where the server is not reached directly.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        server: ServerUrl,
        identity: Identity,
        proxy: str | None = None,
    ) -> None:
        self.folder = folder
        self.proxy = proxy
        self.name = name
        self.server = server
        self.identity = identity
        self.policies = Policies(folder / POLICIES_FILE, server.identity)
        self.last_lines = LastLines(folder / LAST_LINES_FILE, server.identity)
        self.known = Contacts(folder / CONTACTS_FILE, server.identity)

    @classmethod
    def load(cls, folder: Path | str | None = None) -> Profile:
        """The profile in ``folder`` (default: KNOTHOLE_HOME or the platform's place).

        Raises ProfileError when there is none yet or a file in it cannot be used.
        """
        path = profile_folder(folder)
        try:
            settings = msgspec.json.decode((path / SETTINGS_FILE).read_bytes(), type=_Settings)
            identity = Identity.from_bytes((path / IDENTITY_FILE).read_bytes())
            server = parse_server_url(settings.server)
            return cls(path, settings.name, server, identity, settings.proxy)
        except FileNotFoundError as error:
            raise ProfileError(
                f"There is no profile in {path} yet. "
                "Make one with: knothole join NAME --server 'knothole://...'"
            ) from error
        except (OSError, msgspec.DecodeError, MalformedIdentity, InvalidServerUrl) as error:
            raise ProfileError(f"The profile in {path} cannot be used: {error}") from error

    @classmethod
    def create(
        cls, folder: Path | str | None, name: str, server: ServerUrl, proxy: str | None = None
    ) -> Profile:
        """A profile for ``name`` at ``server``, which is reached by ``proxy`` where it is not
        directly; an identity already there is kept.

        Nothing is written before :meth:`save`. Raises ProfileError for an unusable identity file.
        """
        path = profile_folder(folder)
        try:
            identity = Identity.from_bytes((path / IDENTITY_FILE).read_bytes())
        except FileNotFoundError:
            identity = Identity.generate(secrets.token_bytes)
        except (OSError, MalformedIdentity) as error:
            raise ProfileError(f"{path / IDENTITY_FILE} cannot be used: {error}") from error
        return cls(path, name, server, identity, proxy)

    def save_identity(self) -> None:
        """Write the identity alone: before a name is registered for it. Raises ProfileError."""
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / IDENTITY_FILE, self.identity.to_bytes())

    def save(self) -> None:
        """Write name, server, proxy and identity. Raises ProfileError."""
        self.save_identity()
        settings = _Settings(self.name, str(self.server), self.proxy)
        with _explained(self.folder):
            replace_file(self.folder / SETTINGS_FILE, msgspec.json.encode(settings))

    def contacts(self) -> dict[str, KnownPeer]:
        """Those on this profile's server whose keys are remembered, by name.

        Raises ProfileError.
        """
        return self.known.load()

    def remember(self, name: str, key: bytes) -> None:
        """Remember ``key`` as that of ``name``, unless one is remembered already.

        Raises ProfileError.
        """
        if self.known.remember(name, key):
            self.known.save()

    def forget(self, name: str) -> bool:
        """Forget the key of ``name``; whether one was remembered. Raises ProfileError."""
        return self.known.forget(name)


def profile_folder(folder: Path | str | None = None) -> Path:
    """``folder``, else KNOTHOLE_HOME, else the platform's place for such data."""
    chosen = folder or os.environ.get("KNOTHOLE_HOME")
    return Path(chosen) if chosen else platformdirs.user_data_path("knothole", appauthor=False)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProfileError(f"The profile in {folder} cannot be written: {error}") from error

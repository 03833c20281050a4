"""Who is shown no address of ours: what the program was told, and policies for single contacts."""

from __future__ import annotations

import enum
import logging
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from knothole.peer.errors import ProfileError
from knothole.peer.files import locked, replace_file

log = logging.getLogger(__name__)

VERSION: Final = 1


class Policy(enum.Enum):
    """Which way lines with one contact may take."""

    DEFAULT = "default"
    """As the program says: direct, unless it was told --relay-only."""
    RELAY = "relay"
    """By a relay only, whatever the program says: no address is shown."""
    DIRECT = "direct"
    """When they call: direct also where the program was told --relay-only for everybody."""


class _File(Struct, frozen=True):
    version: int = VERSION
    servers: dict[str, dict[str, Policy]] = {}


class Policies:
    """The policies for contacts at ``server``, and the file they are kept in, which is read again
    whenever another program has changed it."""

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._server = server
        self._stamp: tuple[int, int, int] | None = None
        self._file = _File()

    def of(self, name: str) -> Policy:
        """What holds for ``name``. Raises ProfileError when the file cannot be read: to show an
        address by mistake is worse than not to call."""
        return self.all().get(name, Policy.DEFAULT)

    def all(self) -> dict[str, Policy]:
        """Everybody for whom something else than the default holds. Raises ProfileError."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._file, self._stamp = self._read(), stamp
        return self._file.servers.get(self._server, {})

    def set(self, name: str, policy: Policy) -> None:
        """From now on ``policy`` holds for ``name``. Raises ProfileError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._path.parent):
                servers = dict(self._read().servers)
                mine = dict(servers.get(self._server, {}))
                mine.pop(name, None)
                if policy is not Policy.DEFAULT:
                    mine[name] = policy
                servers[self._server] = mine
                replace_file(self._path, msgspec.json.encode(_File(VERSION, servers)))
        except OSError as error:
            raise ProfileError(f"{self._path} cannot be written: {error}") from error

    def _read(self) -> _File:
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return _File()
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ProfileError(
                f"{self._path} cannot be read ({error}): repair it or move it away."
            ) from error
        if file.version != VERSION:
            raise ProfileError(f"{self._path} is of another version of knothole.")
        return file

    def _stamp_now(self) -> tuple[int, int, int] | None:
        """Another one whenever the file is another: it is only ever replaced.

        Raises ProfileError when nobody knows whether there is one.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProfileError(f"{self._path} cannot be read: {error}") from error
        return status.st_ino, status.st_mtime_ns, status.st_size


class ByPolicy:
    """The engine's :class:`~knothole.engine.endpoint.privacy.Discretion` of one peer."""

    def __init__(self, policies: Policies, *, relay_only: bool) -> None:
        self._policies = policies
        self._relay_only = relay_only

    @property
    def nothing_on_file(self) -> bool:
        return self._relay_only

    def relay_only(self, name: str, incoming: bool) -> bool:
        try:
            policy = self._policies.of(name)
        except ProfileError as error:  # rather the relay than an address shown by mistake
            log.warning("%s", error)
            return True
        if policy is Policy.DIRECT and incoming:
            return False
        return self._relay_only or policy is Policy.RELAY

    def hidden_from(self) -> frozenset[str]:
        """The contacts who shall not be shown our candidates. Raises ProfileError."""
        policies = self._policies.all().items()
        return frozenset(name for name, policy in policies if policy is Policy.RELAY)

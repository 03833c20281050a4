"""The people whose keys are remembered, at one server, and the file they are kept in."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from knothole.engine.secure.identity import PeerKeys
from knothole.engine.secure.pins import KnownPeer, KnownPeers, MalformedPins, Verdict
from knothole.peer.errors import ProfileError
from knothole.peer.files import locked, replace_file

log = logging.getLogger(__name__)


class Contacts:
    """Known peers of the server with the identity ``server`` (ServerUrl.identity).

    The file is read again whenever another program has changed it: a key that is forgotten by
    ``knothole contacts`` counts as new at the next call of a program that runs already. What is
    remembered counts at once and is written by :meth:`save`.
    """

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._server = server
        self._peers = KnownPeers()
        self._unsaved: list[tuple[str, bytes, PeerKeys | None]] = []
        self._stamp: tuple[int, int, int] | None = None

    def load(self) -> dict[str, KnownPeer]:
        """Everybody, by name. Raises ProfileError."""
        stamp = self._stamp_now()
        self._peers = self._read()
        self._stamp = stamp
        for name, key, keys in self._unsaved:
            self._peers.remember(self._server, name, key, int(time.time()), keys)
        return {peer.name: peer for peer in self._peers if peer.server == self._server}

    def get(self, name: str, /) -> KnownPeer | None:
        """What is remembered of ``name``, as the file says now."""
        if self._stamp_now() != self._stamp:
            try:
                self.load()
            except ProfileError as error:  # what was read before still holds
                log.warning("%s", error)
        return self._peers.get(self._server, name)

    def remember(self, name: str, key: bytes, keys: PeerKeys | None = None) -> bool:
        """Remember a key that was proven, with what calls are sealed to; never another key than
        before. True when that is new, and :meth:`save` should follow."""
        before = self.get(name)
        now_unix = int(time.time())
        if self._peers.remember(self._server, name, key, now_unix, keys) is Verdict.CHANGED:
            return False
        if self._peers.get(self._server, name) == before:
            return False
        self._unsaved.append((name, key, keys))
        return True

    def save(self) -> None:
        """Write what is remembered since the last time. Raises ProfileError."""
        unsaved = tuple(self._unsaved)
        with self._changing() as peers:
            for name, key, keys in unsaved:
                peers.remember(self._server, name, key, int(time.time()), keys)
        del self._unsaved[: len(unsaved)]

    def forget(self, name: str) -> bool:
        """Forget the key of ``name``; whether one was remembered. Raises ProfileError."""
        with self._changing() as peers:
            known = peers.forget(self._server, name)
        self._peers.forget(self._server, name)
        return known

    @contextlib.contextmanager
    def _changing(self) -> Iterator[KnownPeers]:
        """What is in the file, to be changed and written back."""
        folder = self._path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                peers = self._read()
                before = peers.to_bytes()
                yield peers
                after = peers.to_bytes()
                if after != before:
                    replace_file(self._path, after)
        except OSError as error:
            raise ProfileError(f"{self._path} cannot be written: {error}") from error

    def _read(self) -> KnownPeers:
        try:
            return KnownPeers.from_bytes(self._path.read_bytes())
        except FileNotFoundError:
            return KnownPeers()
        except (OSError, MalformedPins) as error:
            raise ProfileError(
                f"{self._path} cannot be read ({error}): no key can be checked against it. "
                "Repair it or move it away; then keys count as seen for the first time."
            ) from error

    def _stamp_now(self) -> tuple[int, int, int] | None:
        """Another one whenever the file is another: it is only ever replaced."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

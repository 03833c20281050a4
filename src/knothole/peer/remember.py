"""Remembering the keys that were proven, without the event loop waiting for the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from knothole.engine.secure.identity import PeerKeys
from knothole.peer.contacts import Contacts
from knothole.peer.errors import ProfileError

log = logging.getLogger(__name__)


class Memory:
    """What a running peer learns of other people's keys.

    ``changed`` is called when somebody is known who was not.
    """

    def __init__(self, contacts: Contacts, changed: Callable[[], None]) -> None:
        self._contacts = contacts
        self._changed = changed
        self._saving: asyncio.Task[None] | None = None
        self._again = False

    def proven(self, name: str, key: bytes, keys: PeerKeys | None) -> None:
        """The handshake has proven ``key``; ``keys`` are what calls to ``name`` are sealed to."""
        is_new = self._contacts.get(name) is None
        if self._contacts.remember(name, key, keys):
            self._save()
        if is_new:
            self._changed()

    def found(self, keys: PeerKeys) -> None:
        """The switchboard's word: it counts for somebody whose key was proven already."""
        known = self._contacts.get(keys.name)
        if (
            known is not None
            and known.public_key == keys.public_key
            and self._contacts.remember(keys.name, keys.public_key, keys)
        ):
            self._save()

    async def close(self) -> None:
        """Wait until everything is written."""
        if self._saving is not None:
            await self._saving

    def _save(self) -> None:
        self._again = True
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._write(), name="remember keys")

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._again:
            self._again = False
            try:
                await loop.run_in_executor(None, self._contacts.save)
            except ProfileError as error:  # they count until this program ends
                log.warning("%s", error)

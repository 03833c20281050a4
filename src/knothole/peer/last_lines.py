"""The histories of the last lines, in a file of the profile: what ``knothole why`` reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from knothole.engine.endpoint.history import CallHistory
from knothole.peer.files import locked, replace_file

log = logging.getLogger(__name__)

VERSION: Final = 1
LINES_OF_ONE: Final = (
    4  # ours: kept of one peer, so that a ping does not hide the call that goes on
)
LINES_OF_ALL: Final = 64  # ours
WRITE_AFTER_SECONDS: Final = 0.3  # ours: what changes meanwhile is written with it

LOOK_AGAIN_SECONDS: Final = (3.0, 12.0)
"""Ours: the counts of checks go on while no step is noted; after these pauses they are looked at
again. By then every check has been answered or given up (docs/protocol/ice.md)."""


class KeptLine(Struct, frozen=True):
    """One line: ``began`` in Unix seconds, ``process`` the one that had or has it."""

    call_id: str
    server: str
    began: float
    process: int
    history: CallHistory

    @property
    def goes_on(self) -> bool:
        """Whether the line is there still, as far as one can tell."""
        return not self.history.over and _is_alive(self.process)


class _File(Struct, frozen=True):
    version: int
    lines: tuple[KeptLine, ...] = ()


class LastLines:
    """The file, newest lines last. What cannot be read counts as empty: nothing depends on it."""

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._server = server

    def of(self, name: str) -> KeptLine | None:
        """The line with ``name`` that goes on, else the last one."""
        mine = [
            line
            for line in self._read()
            if (line.server, line.history.name) == (self._server, name)
        ]
        going_on = [line for line in mine if line.goes_on]
        return next(reversed(going_on or mine), None)

    def keep(self, lines: dict[bytes, tuple[float, CallHistory]]) -> None:
        """Write the histories of these lines, by call id, each with when it began.

        Raises OSError.
        """
        new = {
            call_id.hex(): KeptLine(call_id.hex(), self._server, began, os.getpid(), history)
            for call_id, (began, history) in lines.items()
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.parent):
            kept = {line.call_id: line for line in self._read()} | new
            data = msgspec.json.encode(_File(VERSION, tuple(_bounded(kept.values()))))
            replace_file(self._path, data)

    def _read(self) -> tuple[KeptLine, ...]:
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            return ()
        return file.lines if file.version == VERSION else ()


class Diary:
    """Keeps the histories of a running peer's lines in the file, without the loop waiting for the
    disk. ``current`` gives the history of a line that goes on, None when it is over."""

    def __init__(
        self, last_lines: LastLines, current: Callable[[bytes], CallHistory | None]
    ) -> None:
        self._last_lines = last_lines
        self._current = current
        self._looks: dict[bytes, asyncio.TimerHandle] = {}
        self._began: dict[bytes, float] = {}
        self._unwritten: dict[bytes, tuple[float, CallHistory]] = {}
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def tell(self, call_id: bytes, history: CallHistory) -> None:
        """The history of a line has become ``history``."""
        began = self._began.setdefault(call_id, time.time() - history.age_seconds)
        if (look := self._looks.pop(call_id, None)) is not None:
            look.cancel()
        if history.over:
            del self._began[call_id]
        else:
            self._look_later(call_id, LOOK_AGAIN_SECONDS)
        self._write_soon(call_id, began, history)

    async def close(self) -> None:
        """Wait until everything is written."""
        self._closing.set()
        for look in self._looks.values():
            look.cancel()
        if self._writing is not None:
            await self._writing

    def _look_later(self, call_id: bytes, delays: tuple[float, ...]) -> None:
        if delays and not self._closing.is_set():
            loop = asyncio.get_running_loop()
            self._looks[call_id] = loop.call_later(delays[0], self._look, call_id, delays[1:])

    def _look(self, call_id: bytes, delays: tuple[float, ...]) -> None:
        self._looks.pop(call_id, None)
        history = self._current(call_id)
        if history is not None and call_id in self._began:
            self._write_soon(call_id, self._began[call_id], history)
            self._look_later(call_id, delays)

    def _write_soon(self, call_id: bytes, began: float, history: CallHistory) -> None:
        self._unwritten[call_id] = began, history
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="keep histories")

    async def _write(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WRITE_AFTER_SECONDS):
                await self._closing.wait()
        while self._unwritten:
            lines, self._unwritten = self._unwritten, {}
            try:
                await asyncio.get_running_loop().run_in_executor(None, self._last_lines.keep, lines)
            except OSError as error:  # a full disk is no reason to end a line
                log.debug("the history of a line is not kept: %s", error)


def _bounded(lines: Iterable[KeptLine]) -> list[KeptLine]:
    """The newest so many of each peer and of all, oldest first."""
    kept: list[KeptLine] = []
    of_peer: Counter[tuple[str, str]] = Counter()
    for line in sorted(lines, key=lambda line: -line.began):
        peer = line.server, line.history.name
        of_peer[peer] += 1
        if of_peer[peer] <= LINES_OF_ONE and len(kept) < LINES_OF_ALL:
            kept.append(line)
    return kept[::-1]


def _is_alive(process: int) -> bool:
    """Whether a process of this number is there; on Windows nobody can ask without harm."""
    if sys.platform == "win32":
        return process == os.getpid()
    with contextlib.suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True

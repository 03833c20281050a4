"""What the commands that go online have in common."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from knothole.cli.output import Failure
from knothole.io.loop import run_loop
from knothole.peer.errors import KnotholeError
from knothole.peer.line import Line, Path
from knothole.peer.peer import Peer

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; the package's errors become its one line of failure."""
    try:
        return run_loop(_terminable(main))
    except KnotholeError as error:
        raise Failure(str(error)) from error


async def _terminable(main: Coroutine[Any, Any, T]) -> T:
    """SIGTERM ends a command as cleanly as Ctrl-C does."""
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    try:
        loop.add_signal_handler(signal.SIGTERM, terminate)
    except (NotImplementedError, RuntimeError):  # Windows, or not the main thread
        return await task
    try:
        return await task
    except asyncio.CancelledError:
        if terminated:
            raise SystemExit(0) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@asynccontextmanager
async def line_to(name: str, app: str, *, timeout: float = 20.0) -> AsyncIterator[Line]:
    """A line to ``name`` from the profile in KNOTHOLE_HOME, closed at the end."""
    async with Peer(callable=False) as peer, await peer.connect(name, timeout, app=app) as line:
        yield line


def path_facts(path: Path) -> dict[str, object]:
    """A path as the ``--json`` objects have it."""
    return {
        "path": path.kind,
        "local": None if path.local is None else str(path.local),
        "remote": None if path.remote is None else str(path.remote),
    }


def acquaintance(line: Line) -> str:
    """What to say of the key of the other side, with the words to compare."""
    words = " ".join(line.words)
    if line.first_seen:
        return (
            f"First line with {line.peer_name}: its key is remembered from now on. "
            f"To be sure, both of you should see these words: {words}"
        )
    return f"{line.peer_name}'s key is the known one. Words of this line: {words}"

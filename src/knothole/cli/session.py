"""What the commands that go online have in common."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from knothole.apps import chat, pipe
from knothole.cli.network import ANY_NETWORK, Network
from knothole.cli.output import Failure, Output
from knothole.engine.secure.identity import fingerprint
from knothole.io.loop import run_loop
from knothole.peer.errors import CallDeclined, KnotholeError, PeerBusy
from knothole.peer.line import Line, Path
from knothole.peer.peer import Peer

PING: Final = "ping"
CALL: Final = "call"
HOW: Final = {
    PING: "knothole listen",
    chat.APP: "knothole listen",
    pipe.APP: "knothole listen --pipe",
    CALL: "knothole listen --answer",
}
"""The apps of this program, and how the other side takes them."""

TERMINATED: Final = 143  # as shells count: 128 + SIGTERM
T = TypeVar("T")


class _Terminated(Exception):
    pass


def run(main: Coroutine[Any, Any, int], *, when_terminated: int = TERMINATED) -> int:
    """Run a command's coroutine to its exit code; the package's errors become its one line.

    SIGTERM, and the end of the terminal, end it as cleanly as Ctrl-C does, with the exit code
    ``when_terminated``: 0 for what is meant to run until then.
    """
    try:
        return run_loop(_terminable(main))
    except KnotholeError as error:
        raise Failure(str(error)) from error
    except _Terminated:
        return when_terminated


async def _terminable(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    numbers = [
        number
        for name in ("SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None)) is not None
        and signal.getsignal(number) is not signal.SIG_IGN  # nohup
    ]
    with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, or another thread
        for number in numbers:
            loop.add_signal_handler(number, terminate)
    try:
        return await task
    except asyncio.CancelledError:
        if terminated:
            raise _Terminated from None
        raise
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError):
            for number in numbers:
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def interrupt_sets(event: asyncio.Event) -> Iterator[None]:
    """Meanwhile Ctrl-C sets ``event``, the second one ends the program."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        event.set()
        restore()

    def restore() -> None:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)

    with contextlib.suppress(NotImplementedError):  # Windows: it ends the program at once
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        restore()


@asynccontextmanager
async def line_to(
    output: Output, name: str, app: str, network: Network = ANY_NETWORK
) -> AsyncIterator[Line]:
    """A line to ``name`` from the profile in KNOTHOLE_HOME, closed at the end.

    It is announced, with the words to compare when the key is seen for the first time.
    """
    async with Peer(callable=False, **network.for_peer()) as peer:
        started = time.monotonic()
        try:
            line = await peer.connect(name, app=app)
        except PeerBusy:
            raise
        except CallDeclined as error:
            raise Failure(f"{error} It has to run: {HOW[app]}, and to accept you.") from error
        async with line:
            seconds = time.monotonic() - started
            await announce(output, line, seconds, always_words=app == chat.APP)
            yield line


async def announce(
    output: Output, line: Line, seconds: float | None = None, *, always_words: bool = False
) -> None:
    """Tell that there is a line and whose key it is, with the words to compare when it is new.

    ``always_words`` for lines between people: the key may be new to the other one. Raises
    LineClosed when the line breaks before the keys are proven.
    """
    words = await line.secured()
    after = "" if seconds is None else f" after {seconds:.2f} s"
    output.note(
        "line",
        f"Connected with {line.peer_name}{after}: {line.path}",
        peer=line.peer_name,
        key=fingerprint(line.peer_key),
        first_seen=line.first_seen,
        words=list(words),
        app=line.app,
        seconds=None if seconds is None else round(seconds, 3),
        **path_facts(line.path),
    )
    if (line.first_seen or always_words) and not output.json:
        output.note("words", acquaintance(line))


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
            f"The key of {line.peer_name} is new and remembered from now on. To be sure that "
            f"nobody stands in between, compare these words with {line.peer_name}: {words}"
        )
    return f"The key of {line.peer_name} is the known one. Both of you see these words: {words}"

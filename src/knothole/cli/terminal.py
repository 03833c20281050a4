"""The terminal while a command talks with a person: single keys in, a line at the bottom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from knothole.apps.blocking import DescriptorReader
from knothole.apps.chat import MessageSplitter
from knothole.cli.keys import EditedLine, KeyReader
from knothole.cli.output import Output
from knothole.cli.shown import fitted, shown, width

END_OF_INPUT: Final = "\x04"  # Ctrl-D
_ERASE_LINE: Final = "\r\x1b[K"


class Typed(Protocol):
    """Where the lines of a person, or of a program in its place, come from."""

    async def line(self) -> str | None:
        """The next line, None at the end of them."""


def is_interactive() -> bool:
    """Whether a person sits in front of both stdin and stdout, and keys can be read one by one."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return is_terminal and _is_ours()


@contextlib.contextmanager
def typing(output: Output, prompt: str, otherwise: Typed) -> Iterator[Typed]:
    """Lines typed after a prompt where a person sits in front, else those of ``otherwise``."""
    if output.json or not is_interactive():
        yield otherwise
        return
    line = Prompt(prompt)
    with single_keys(line.press, typed_before=True), output.above(line):
        yield line


@contextlib.contextmanager
def single_keys(press: Callable[[str], None], *, typed_before: bool = False) -> Iterator[None]:
    """Meanwhile every key of the terminal goes to ``press`` and nothing is echoed.

    What was typed before counts only with ``typed_before``. Ctrl-C stays Ctrl-C.
    """
    import termios

    loop, descriptor, keys = asyncio.get_running_loop(), sys.stdin.fileno(), KeyReader()
    before = termios.tcgetattr(descriptor)
    mode = termios.tcgetattr(descriptor)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0

    def readable() -> None:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            loop.remove_reader(descriptor)
            press(END_OF_INPUT)
        for key in keys.feed(data):
            press(key)

    def continued() -> None:  # after Ctrl-Z and fg
        termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
        press("\x0c")

    when = termios.TCSADRAIN if typed_before else termios.TCSAFLUSH
    termios.tcsetattr(descriptor, when, mode)
    loop.add_reader(descriptor, readable)
    loop.add_signal_handler(signal.SIGCONT, continued)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCONT)
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Prompt:
    """A prompt with an edited line after it, at the bottom of the terminal."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._line = EditedLine()
        self._sent: asyncio.Queue[str | None] = asyncio.Queue()
        self._visible = False

    async def line(self) -> str | None:
        return await self._sent.get()

    def change(self, prompt: str) -> None:
        """Show another prompt from now on."""
        self._prompt = prompt
        self._redraw()

    def press(self, key: str) -> None:
        """Take one key."""
        if key == END_OF_INPUT and not self._line.text:
            self._sent.put_nowait(None)
            return
        sent = self._line.press("\x1b[3~" if key == END_OF_INPUT else key)
        if sent:
            self.hide()
            print(f"{self._prompt}{sent}", flush=True)
            self._sent.put_nowait(sent)
            self.show()
        else:
            self._redraw()

    def hide(self) -> None:
        self._visible = False
        sys.stdout.write(_ERASE_LINE)
        sys.stdout.flush()

    def show(self) -> None:
        self._visible = True
        self._redraw()

    def _redraw(self) -> None:
        if not self._visible:
            return
        text, back = self._line.window(_columns() - width(self._prompt))
        left = f"\x1b[{back}D" if back else ""
        sys.stdout.write(f"{_ERASE_LINE}{self._prompt}{text}{left}")
        sys.stdout.flush()


class LiveLine:
    """One line at the bottom of the terminal that changes while something goes on."""

    def __init__(self) -> None:
        self._text = ""
        self._visible = False

    def change(self, text: str) -> None:
        """Show this from now on."""
        self._text = shown(text)
        if self._visible:
            self.show()

    def hide(self) -> None:
        self._visible = False
        sys.stdout.write(_ERASE_LINE)
        sys.stdout.flush()

    def show(self) -> None:
        self._visible = True
        sys.stdout.write(_ERASE_LINE + fitted(self._text, _columns() - 1))
        sys.stdout.flush()


class Piped:
    """Lines of stdin where nobody sits in front of it, read when they are asked for."""

    def __init__(self) -> None:
        self._splitter = MessageSplitter()
        self._lines: deque[str] = deque()
        self._ended = False
        self._reader: DescriptorReader | None = None
        self._reading: asyncio.Task[bytes] | None = None

    async def line(self) -> str | None:
        while not self._lines and not self._ended:
            data = await self._read()
            self._ended = not data
            self._lines.extend(self._splitter.feed(data) if data else self._splitter.end())
        return self._lines.popleft() if self._lines else None

    async def _read(self) -> bytes:
        if sys.stdin.isatty() and not _is_ours():
            await asyncio.Event().wait()  # to read it from the background would stop the program
        if self._reader is None:
            self._reader = DescriptorReader(sys.stdin.fileno())
        if self._reading is None:  # one that was not waited for to its end is still going on
            self._reading = asyncio.create_task(self._reader.read())
        try:
            data = await asyncio.shield(self._reading)
        except OSError:
            data = b""
        self._reading = None
        return data


def _is_ours() -> bool:
    """Whether the terminal can be read key by key, and is ours to read: not in the background."""
    try:
        import termios  # noqa: F401

        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (ImportError, OSError):
        return False


def _columns() -> int:
    return max(20, shutil.get_terminal_size().columns)

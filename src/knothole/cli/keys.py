"""What a person types into a line before it is sent: editing without a terminal."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator
from typing import Final

from knothole.cli.shown import width

HISTORY: Final = 200
_ESCAPE: Final = "\x1b"
_SEQUENCES: Final = {
    "[D": "left",
    "OD": "left",
    "[C": "right",
    "OC": "right",
    "[H": "home",
    "OH": "home",
    "[1~": "home",
    "[F": "end",
    "OF": "end",
    "[4~": "end",
    "[3~": "delete",
    "[A": "older",
    "OA": "older",
    "[B": "newer",
    "OB": "newer",
}
_CONTROLS: Final = {
    "\x01": "home",  # Ctrl-A
    "\x02": "left",
    "\x05": "end",  # Ctrl-E
    "\x06": "right",
    "\x08": "backspace",
    "\x7f": "backspace",
    "\x0b": "cut after",  # Ctrl-K
    "\x0e": "newer",
    "\x10": "older",
    "\x15": "cut before",  # Ctrl-U
    "\x17": "cut word",  # Ctrl-W
}


class KeyReader:
    """From the bytes of a terminal to single keys: a character, or a key's escape sequence."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._sequence = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """The keys that are complete with ``data``."""
        for character in self._decoder.decode(data):
            if not self._sequence:
                if character == _ESCAPE:
                    self._sequence = character
                else:
                    yield character
                continue
            self._sequence += character
            if _is_complete(self._sequence):
                sequence, self._sequence = self._sequence, ""
                yield sequence


class EditedLine:
    """The line as it stands: ``text`` with a cursor in it, and what was sent before."""

    def __init__(self) -> None:
        self.text = ""
        self.cursor = 0
        self._history: list[str] = []
        self._place = 0

    def press(self, key: str) -> str | None:
        """Take one key; the line when it was sent by it."""
        if key in ("\r", "\n"):
            return self._send()
        action = _CONTROLS.get(key) or _SEQUENCES.get(key[1:] if key[0] == _ESCAPE else "")
        if action is not None:
            self._do(action)
        elif key[0] != _ESCAPE and unicodedata.category(key[0])[0] != "C":
            self._put(self.text[: self.cursor] + key, self.text[self.cursor :])
        return None

    def window(self, columns: int) -> tuple[str, int]:
        """What of the text to show in so many columns, and how far before its end the cursor is.

        The cursor is always in it.
        """
        start = 0
        while width(self.text[start : self.cursor]) > columns - 1:
            start += 1
        end = len(self.text)
        while width(self.text[start:end]) > columns - 1 and end > self.cursor:
            end -= 1
        return self.text[start:end], width(self.text[self.cursor : end])

    def _send(self) -> str:
        sent = self.text
        if sent and self._history[-1:] != [sent]:
            self._history = [*self._history, sent][-HISTORY:]
        self._place = len(self._history)
        self._put("", "")
        return sent

    def _put(self, before: str, after: str) -> None:
        self.text, self.cursor = before + after, len(before)

    def _do(self, action: str) -> None:
        before, after = self.text[: self.cursor], self.text[self.cursor :]
        match action:
            case "left":
                self.cursor = max(0, self.cursor - 1)
            case "right":
                self.cursor = min(len(self.text), self.cursor + 1)
            case "home":
                self.cursor = 0
            case "end":
                self.cursor = len(self.text)
            case "backspace":
                self._put(before[:-1], after)
            case "delete":
                self._put(before, after[1:])
            case "cut after":
                self._put(before, "")
            case "cut before":
                self._put("", after)
            case "cut word":
                self._put(
                    before.rstrip().rpartition(" ")[0] + " " * (" " in before.rstrip()), after
                )
            case "older" | "newer":
                self._remember(-1 if action == "older" else 1)

    def _remember(self, step: int) -> None:
        place = self._place + step
        if 0 <= place <= len(self._history):
            self._place = place
            self._put(self._history[place] if place < len(self._history) else "", "")


def _is_complete(sequence: str) -> bool:
    """Whether an escape sequence has its last character (ECMA-48 Section 5.4)."""
    if len(sequence) == 2:
        return sequence[1] not in "[O"
    if sequence[1] == "O":
        return True
    return "@" <= sequence[-1] <= "~"

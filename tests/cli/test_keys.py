"""Editing a line, without a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.cli.keys import EditedLine, KeyReader
from knothole.cli.shown import width

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (
    "\x1b[D",
    "\x1b[C",
    "\x1b[A",
    "\x1b[B",
    "\x1b[H",
    "\x1b[F",
    "\x1b[3~",
)


def typed(*keys: str) -> EditedLine:
    """A line after these keys; a plain text is its characters."""
    line = EditedLine()
    for key in keys:
        for each in [key] if key.startswith("\x1b") else key:
            line.press(each)
    return line


@pytest.mark.parametrize(
    ("keys", "text", "cursor"),
    [
        (("abc",), "abc", 3),
        (("abc", "\x7f"), "ab", 2),
        (("abc", "\x08\x08\x08\x08"), "", 0),
        (("abc", LEFT, "X"), "abXc", 3),
        (("abc", HOME, RIGHT, "X"), "aXbc", 2),
        (("abc", HOME, DELETE), "bc", 0),
        (("abc", HOME, END, "d"), "abcd", 4),
        (("abc", "\x01", "X", "\x05", "Y"), "XabcY", 5),
        (("one two  ", "\x17"), "one ", 4),
        (("one", "\x17"), "", 0),
        (("one two", LEFT, "\x15"), "o", 0),
        (("one two", LEFT, "\x0b"), "one tw", 6),
        (("日本", LEFT, "\x7f"), "本", 0),
        (("a", "\x1b[200~", "\x1bOP", "\x1b[1;5C", "b"), "ab", 2),
        (("a\x00\x1a\u202e\x9bb",), "ab", 2),
    ],
)
def test_keys_edit_the_line(keys: tuple[str, ...], text: str, cursor: int) -> None:
    line = typed(*keys)
    assert (line.text, line.cursor) == (text, cursor)


def test_enter_sends_the_line_and_begins_another() -> None:
    line = typed("hello", HOME)
    assert line.press("\r") == "hello"
    assert (line.text, line.cursor) == ("", 0)


def test_what_was_sent_comes_back_by_the_arrows() -> None:
    line = typed("one\r", "two\r", "two\r")
    for key, text in [(UP, "two"), (UP, "one"), (UP, "one"), (DOWN, "two"), (DOWN, ""), (DOWN, "")]:
        line.press(key)
        assert line.text == text


@given(st.text(), st.lists(st.sampled_from([LEFT, RIGHT, HOME, END, "\x7f"])), st.integers(2, 40))
def test_the_window_fits_and_holds_the_cursor(text: str, keys: list[str], columns: int) -> None:
    line = typed(text.replace("\x1b", ""), *keys)
    shown, back = line.window(columns)
    assert width(shown) <= columns - 1
    assert shown in line.text
    assert 0 <= back <= width(shown)
    assert width(shown) - back <= width(line.text[: line.cursor])


@given(st.lists(st.binary()))
def test_any_bytes_in_any_pieces_are_keys(pieces: list[bytes]) -> None:
    line, whole, parts = EditedLine(), KeyReader(), KeyReader()
    keys = [key for piece in pieces for key in parts.feed(piece)]
    assert keys == list(whole.feed(b"".join(pieces)))
    for key in keys:
        line.press(key)
    assert line.text.isprintable() or "\r" not in line.text
    assert 0 <= line.cursor <= len(line.text)


def test_a_key_that_comes_in_pieces_is_one_key() -> None:
    reader = KeyReader()
    pieces = [b"a\x1b", b"[", b"3", b"~\xc3", b"\xa4\x1bOD"]
    assert [key for piece in pieces for key in reader.feed(piece)] == ["a", DELETE, "ä", "\x1bOD"]

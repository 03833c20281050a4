"""Text from elsewhere, made fit for a terminal: shown, not obeyed."""

from __future__ import annotations

import unicodedata
from typing import Final

JOINERS: Final = "\u200c\u200d"
"""Invisible and needed: emoji and several scripts are written with them."""

_WIDE: Final = ("W", "F")  # Unicode Standard Annex 11
_NO_WIDTH: Final = ("Mn", "Me", "Cf")
_DANGEROUS: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories: C0 and C1 controls; format characters, bidirectional overrides among them;
surrogates; separators of lines and paragraphs, which some terminals obey."""


def shown(text: str) -> str:
    """``text`` in one line, with every character that a terminal might obey spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def width(text: str) -> int:
    """How many columns ``text`` takes, as terminals count."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def fitted(text: str, columns: int) -> str:
    """The beginning of ``text`` that fits in so many columns, with an ellipsis when it is less."""
    if width(text) <= columns:
        return text
    kept, used = [], 1
    for character in text:
        used += _width(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…" if columns > 0 else ""


def _shown(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) not in _DANGEROUS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def _width(character: str) -> int:
    if unicodedata.category(character) in _NO_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1

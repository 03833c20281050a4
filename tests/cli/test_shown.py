"""Text from elsewhere is shown, not obeyed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.cli.shown import JOINERS, fitted, shown, width


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("hello", "hello"),
        ("grüße, 日本語, 👍🏽, 👩‍👩‍👧", "grüße, 日本語, 👍🏽, 👩‍👩‍👧"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # C1: CSI in one character
        ("\x90q\x9c", r"\x90q\x9c"),
        ("over\rwritten", r"over\rwritten"),
        ("two\nlines", r"two\nlines"),
        ("tab\t, bell\a, back\b, delete\x7f, null\0", None),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # right-to-left override
        ("\u2066isolated\u2069\u200f\u061c", r"\u2066isolated\u2069\u200f\u061c"),
        ("para\u2029graph, line\u2028", r"para\u2029graph, line\u2028"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("tag \U000e0041", r"tag \U000e0041"),
        ("lone \ud800", r"lone \ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, safe: str | None) -> None:
    assert shown(text) == (safe if safe is not None else shown(text))
    assert shown(text).isprintable() or any(joiner in text for joiner in JOINERS)


@given(st.text())
def test_nothing_that_is_shown_is_a_control_or_a_format_character(text: str) -> None:
    for character in shown(text):
        category = unicodedata.category(character)
        assert category[0] != "C" or category in ("Co", "Cn") or character in JOINERS
        assert category not in ("Zl", "Zp")


def test_width_counts_columns_not_characters() -> None:
    assert width("hello") == 5
    assert width("日本") == 4
    assert width("e\u0301") == 1


@given(st.text(), st.integers(0, 40))
def test_what_is_fitted_fits(text: str, columns: int) -> None:
    result = fitted(text, columns)
    assert width(result) <= columns
    assert result == text or width(text) > columns

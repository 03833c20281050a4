from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.wire.signal.values import (
    ANYONE,
    NAME_PATTERN,
    NOBODY,
    Audience,
    AudienceKind,
    InvalidName,
    canonical_name,
)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("bob", "bob"), ("Bob", "bob"), ("A.B-c_9", "a.b-c_9"), ("0", "0"), ("x" * 64, "x" * 64)],
)
def test_names_have_one_spelling(typed: str, name: str) -> None:
    assert canonical_name(typed) == name


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("", "must not be empty"),
        ("x" * 65, "at most 64"),
        ("bob smith", "made of the letters a-z"),
        ("b\u043eb", "made of the letters a-z"),  # Cyrillic o
        ("\u212aate", "made of the letters a-z"),  # the Kelvin sign folds to k
        ("\uff42ob", "made of the letters a-z"),  # full-width b
        ("bob\n", "made of the letters a-z"),
        ("b\u00fcb", "made of the letters a-z"),
        ("\u0130", "made of the letters a-z"),
        ("--help", "starts with a letter or a digit"),
        (".hidden", "starts with a letter or a digit"),
        ("_", "starts with a letter or a digit"),
        ("bob@host", "made of the letters a-z"),
        ("bob/..", "made of the letters a-z"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(typed: str, complaint: str) -> None:
    with pytest.raises(InvalidName, match=complaint):
        canonical_name(typed)


@given(st.text(max_size=70))
def test_the_pattern_on_the_wire_and_the_function_agree(text: str) -> None:
    try:
        name = canonical_name(text)
    except InvalidName:
        assert not re.search(NAME_PATTERN, text)
        return
    assert re.search(NAME_PATTERN, name) and canonical_name(name) == name


def test_an_audience_includes_whom_it_names() -> None:
    some = Audience(AudienceKind.NAMES, ("alice",))
    assert some.includes("alice") and not some.includes("bob")
    assert ANYONE.includes("bob") and not NOBODY.includes("alice")
    assert not Audience(AudienceKind.NOBODY, ("alice",)).includes("alice")

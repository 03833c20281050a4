from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.secure.wordlist import COMPARISON_WORDS
from knothole.engine.secure.words import comparison_words, opens_commitment, words_commitment

A, B, NA, NB = (bytes([n]) * 32 for n in range(4))


def edits(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def test_there_are_256_words_easily_told_apart() -> None:
    assert len(COMPARISON_WORDS) == 256
    assert len({word[:3] for word in COMPARISON_WORDS}) == 256
    assert all(word.isascii() and word.islower() and word.isalpha() for word in COMPARISON_WORDS)
    assert all(4 <= len(word) <= 8 for word in COMPARISON_WORDS)
    assert all(edits(a, b) >= 3 for a, b in itertools.combinations(COMPARISON_WORDS, 2))


def test_the_words_of_a_known_input_never_change_within_version_1() -> None:
    assert comparison_words(A, B, NA, NB) == ("vinegar", "carpet", "unicorn", "soccer")


def test_every_input_counts() -> None:
    variants = {comparison_words(*order) for order in itertools.permutations((A, B, NA, NB))}
    assert len(variants) == 24


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_commitment_opens_with_its_nonce_only(nonce: bytes, other: bytes) -> None:
    commitment = words_commitment(nonce)
    assert opens_commitment(commitment, nonce)
    assert opens_commitment(commitment, other) is (nonce == other)
    assert nonce not in commitment


@pytest.mark.parametrize("short", [b"", b"x" * 31, b"x" * 33])
def test_values_of_another_length_are_refused(short: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        words_commitment(short)
    with pytest.raises(ValueError, match="32 bytes"):
        comparison_words(A, B, short, NB)
    assert not opens_commitment(words_commitment(NA), short)

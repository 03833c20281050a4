"""Username fragments and passwords (RFC 8445 Section 5.3, RFC 8839 Section 5.4)."""

from __future__ import annotations

import random

import pytest

from knothole.engine.ice.credentials import (
    IceCredentials,
    check_username,
    generate_credentials,
    split_username,
)


def test_generated_credentials_have_the_randomness_the_standard_asks_for():
    asked = []

    def source(count):
        asked.append(count * 8)
        return random.Random(1).randbytes(count)

    made = generate_credentials(source)
    assert asked[0] >= 24 and asked[1] >= 128
    assert len(made.ufrag) >= 4 and len(made.password) >= 22


def test_the_password_is_not_shown():
    assert "secret" not in repr(IceCredentials("abcd", "secret" * 4))


@pytest.mark.parametrize(
    ("ufrag", "password"),
    [("abc", "p" * 22), ("abcd", "p" * 21), ("ab:d", "p" * 22), ("a" * 257, "p" * 22), ("", "")],
)
def test_credentials_outside_the_grammar_are_refused(ufrag, password):
    with pytest.raises(ValueError):
        IceCredentials(ufrag, password)


def test_the_receivers_fragment_stands_first():
    sender, receiver = IceCredentials("SEND", "s" * 22), IceCredentials("RECV", "r" * 22)
    assert check_username(sender, receiver) == "RECV:SEND"
    assert split_username("RECV:SEND") == ("RECV", "SEND")
    assert split_username("RECV") is None

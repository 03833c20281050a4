"""Candidates on stream 0."""

from __future__ import annotations

import pytest

from knothole.engine.secure.control import LONGEST_BODY, Candidates, ControlReader, MalformedControl

LINE = "candidate:1 1 udp 2130706431 203.0.113.{} 5000 typ host"


def test_many_candidates_are_told_in_as_many_messages_as_it_takes() -> None:
    lines = tuple(LINE.format(number) for number in range(100))
    told = list(ControlReader().feed(Candidates(lines).encode()))
    assert len(told) > 1
    assert tuple(line for message in told for line in message.lines) == lines


def test_a_line_that_no_message_holds_is_left_out() -> None:
    lines = ("x" * (LONGEST_BODY + 1), LINE.format(1))
    (told,) = ControlReader().feed(Candidates(lines).encode())
    assert told == Candidates(lines[1:])


def test_nothing_to_tell_is_no_message() -> None:
    assert Candidates(()).encode() == b""


def test_candidates_that_are_not_ascii_are_malformed() -> None:
    with pytest.raises(MalformedControl):
        list(ControlReader().feed(b"\x03\x00\x01\xff"))

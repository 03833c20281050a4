"""What a server says, as systemd's journal reads it."""

from __future__ import annotations

import os

import pytest

from knothole.cli.journal import for_journal, is_journal, level_of


@pytest.mark.parametrize(
    ("event", "level", "prefix"), [("warning", "warning", "<4>"), ("reached", "info", "<6>")]
)
def test_a_line_has_the_level_of_its_event(event: str, level: str, prefix: str) -> None:
    assert level_of(event) == level
    assert for_journal(event, "something") == f"{prefix}something"


def test_only_the_stream_that_is_the_journal_is_one() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as other, os.fdopen(writing, "w") as stream:
        status = os.fstat(stream.fileno())
        journal = f"{status.st_dev}:{status.st_ino}"
        assert is_journal(stream, {"JOURNAL_STREAM": journal})
        assert not is_journal(stream, {})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        stream.close()
        assert not is_journal(stream, {"JOURNAL_STREAM": journal}), "nor one that is closed"
        other.close()

"""The file that ``knothole why`` reads."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from knothole.engine.endpoint.history import CallHistory
from knothole.peer.last_lines import LINES_OF_ALL, LINES_OF_ONE, Diary, LastLines


def history(name: str = "bob", *, over: bool = True, app: str = "") -> CallHistory:
    return CallHistory(name, False, app, 1.0, over, ())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profile" / "last_lines.json"


def test_the_last_line_is_found_by_name_and_server(file: Path) -> None:
    LastLines(file, "one").keep({b"a": (100.0, history(app="ping")), b"b": (50.0, history())})
    LastLines(file, "two").keep({b"c": (200.0, history(app="chat"))})
    kept = LastLines(file, "one").of("bob")
    assert kept is not None
    assert kept.history.app == "ping"
    assert LastLines(file, "one").of("carol") is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_line_that_goes_on_comes_before_a_later_one_that_is_over(file: Path) -> None:
    lines = LastLines(file, "one")
    lines.keep({b"a": (1.0, history(over=False, app="call")), b"b": (2.0, history(app="ping"))})
    kept = lines.of("bob")
    assert kept is not None
    assert kept.history.app == "call"
    lines.keep({b"a": (1.0, history(app="call"))})
    kept = lines.of("bob")
    assert kept is not None
    assert kept.history.app == "ping"


def test_the_file_is_bounded_and_the_newest_stay(file: Path) -> None:
    lines = LastLines(file, "one")
    lines.keep({b"%d" % n: (float(n), history()) for n in range(10)})
    lines.keep({b"of %d" % n: (100.0 + n, history(f"peer{n}")) for n in range(100)})
    assert len(lines._read()) == LINES_OF_ALL
    assert lines.of("peer99") is not None
    assert lines.of("bob") is None
    lines.keep({b"%d" % n: (1000.0 + n, history()) for n in range(10)})
    assert [line.began for line in lines._read()][-LINES_OF_ONE:] == [
        1006.0,
        1007.0,
        1008.0,
        1009.0,
    ]


@pytest.mark.parametrize("content", [b"", b"no json", b'{"version":9,"lines":[]}', b'{"lines":3}'])
def test_a_file_that_cannot_be_read_counts_as_empty_and_is_replaced(
    file: Path, content: bytes
) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    lines = LastLines(file, "one")
    assert lines.of("bob") is None
    lines.keep({b"a": (1.0, history())})
    assert lines.of("bob") is not None


async def test_what_changed_is_written_when_the_peer_is_left(file: Path) -> None:
    lines = LastLines(file, "one")
    diary = Diary(lines, lambda call_id: None)
    diary.tell(b"a", history(over=False))
    diary.tell(b"a", history(over=True))
    await diary.close()
    kept = await asyncio.to_thread(lines.of, "bob")
    assert kept is not None
    assert kept.history.over

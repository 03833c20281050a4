"""What --in and --out name is tried before anybody's phone rings."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import pytest

from knothole.cli.output import Failure
from knothole.cli.sound import Sound, recording


async def test_files_tone_and_silence_can_be_had_everywhere(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", ""))
        file.writeframes(bytes(9600))
    for source in ("tone", "null", str(tmp_path / "in.wav")):
        for sink in ("null", str(tmp_path / "out.wav")):
            (await Sound.open(source, sink)).close()


async def test_a_recording_is_left_alone_until_there_is_something_to_record(tmp_path: Path) -> None:
    old = tmp_path / "old.wav"
    old.write_bytes(b"precious")
    (await Sound.open("null", str(old))).close()
    assert old.read_bytes() == b"precious"
    (await Sound.open("null", str(tmp_path / "new.wav"))).close()
    assert not (tmp_path / "new.wav").exists()


@pytest.mark.parametrize(
    ("source", "sink", "words"),
    [
        ("missing.wav", "null", "there is no such file"),
        ("null", "no/such/folder.wav", "cannot be written"),
        ("null", "out.mp3", "WAV"),
        ("no such thing", "null", "device"),
    ],
)
async def test_what_cannot_be_had_is_said_in_one_line(
    source: str, sink: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure) as failure:
        await Sound.open(source, sink)
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not os.listdir(tmp_path)


def test_each_recording_has_a_name_of_its_own() -> None:
    assert recording("a/b.wav", 1) == "a/b.wav"
    assert recording("a/b.wav", 2) == "a/b-2.wav"
    assert recording("null", 2) == "null"
    assert recording(None, 3) is None

"""Hypothesis tries the same examples in every run, whichever tests were run before."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st


def examples() -> list[tuple[int, str, bytes]]:
    tried: list[tuple[int, str, bytes]] = []

    @given(st.integers(), st.text(), st.binary())
    def take(number: int, text: str, data: bytes) -> None:
        tried.append((number, text, data))

    take()
    return tried


def test_a_module_that_is_loaded_changes_no_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = examples()
    module = tmp_path / "full_of_constants.py"
    module.write_text("".join(f"A{n} = {n * 7919}, 'text {n}', b'bytes {n}'\n" for n in range(200)))
    spec = importlib.util.spec_from_file_location(module.stem, module)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setitem(sys.modules, module.stem, loaded)
    assert len(before) == 100
    assert examples() == before

"""The corpus of the fuzzer is replayed, and hypothesis tries what is near to it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st


def load_targets() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "knothole_fuzz_wire", Path(__file__).with_name("fuzz_wire.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz_wire = load_targets()
SEEDS = sorted(path for path in fuzz_wire.CORPUS.rglob("*") if path.is_file())


def test_every_target_has_a_corpus() -> None:
    assert {path.parent.name for path in SEEDS} == set(fuzz_wire.TARGETS)


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_corpus_is_taken_or_refused_as_malformed(path: Path) -> None:
    fuzz_wire.TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_corpus_cut_short_anywhere_is_taken_or_refused(path: Path) -> None:
    data = path.read_bytes()[:600]
    for end in range(len(data)):
        fuzz_wire.TARGETS[path.parent.name](data[:end])


@pytest.mark.parametrize("name", fuzz_wire.TARGETS)
@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.binary(max_size=300))
@example(data=b"")
def test_any_bytes_are_taken_or_refused(name: str, data: bytes) -> None:
    fuzz_wire.TARGETS[name](data)


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6))
def test_corpus_with_changed_bytes_is_taken_or_refused(
    path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(path.read_bytes())
    for at, value in changes:
        if data:
            data[at % len(data)] = value
    fuzz_wire.TARGETS[path.parent.name](bytes(data))

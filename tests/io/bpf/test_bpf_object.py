"""The reader of the shortcut program's object file: the real one, and whatever else comes."""

from __future__ import annotations

import contextlib
import random
import struct
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.io.bpf.allowances import ALLOWANCE_SIZE
from knothole.io.bpf.layout import COUNT_SIZE, ENTRY_SIZE, KEY_SIZE
from knothole.io.bpf.object import BpfObject, MalformedObject, MapDefinition, read_object
from knothole.io.bpf.program import OBJECT_NAME

OBJECT = files("knothole.io.bpf").joinpath(OBJECT_NAME).read_bytes()
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
SHOFF, SHNUM = 40, 60  # offsets in the ELF header


def section_named(name: str) -> int:
    """Where the header of that section is."""
    [table], [count, names_at] = (
        struct.unpack_from("<Q", OBJECT, SHOFF),
        struct.unpack_from("<HH", OBJECT, SHNUM),
    )
    names = SECTION_HEADER.unpack_from(OBJECT, table + names_at * SECTION_HEADER.size)
    for number in range(count):
        at = table + number * SECTION_HEADER.size
        start = names[4] + SECTION_HEADER.unpack_from(OBJECT, at)[0]
        if OBJECT[start : OBJECT.index(b"\0", start)] == name.encode():
            return at
    raise AssertionError(name)


def with_header(name: str, field: int, value: int) -> bytes:
    """The file with one field of one section's header changed."""
    at = section_named(name)
    fields = list(SECTION_HEADER.unpack_from(OBJECT, at))
    fields[field] = value
    return OBJECT[:at] + SECTION_HEADER.pack(*fields) + OBJECT[at + SECTION_HEADER.size :]


def patched(offset: int, data: bytes) -> bytes:
    return OBJECT[:offset] + data + OBJECT[offset + len(data) :]


def test_the_committed_object_has_the_maps_that_layout_knows() -> None:
    found = read_object(OBJECT)
    assert found.license == b"Apache-2.0\0"
    assert found.maps.keys() == {"entries", "counts", "allowances", "scratch"}
    assert (found.maps["entries"].key_size, found.maps["entries"].value_size) == (
        KEY_SIZE,
        ENTRY_SIZE,
    )
    assert found.maps["counts"].value_size == COUNT_SIZE
    assert found.maps["allowances"].value_size == ALLOWANCE_SIZE
    assert found.maps["counts"].max_entries == found.maps["entries"].max_entries
    assert {name for _, name in found.uses} == found.maps.keys()


def test_linking_writes_descriptors_where_maps_are_used_and_nowhere_else() -> None:
    instructions = bytes([0x18, 1, 0, 0]) + bytes(12) + bytes([0x95]) + bytes(7)
    maps = {"counts": MapDefinition(2, 4, 24, 1, 0)}
    found = BpfObject(instructions, b"", maps, ((0, "counts"),))
    linked = found.linked({"counts": 77})
    assert linked == bytes([0x18, 0x11, 0, 0, 77, 0, 0, 0]) + instructions[8:]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "too early"),
        (b"not an object file at all, but long enough to have a header of that kind", "not an"),
        (patched(0, b"\x7fELG"), "not an eBPF object"),
        (patched(4, b"\x01"), "not an eBPF object"),
        (patched(5, b"\x02"), "not an eBPF object"),
        (patched(18, b"\x3e\x00"), "not an eBPF object"),
        (patched(58, b"\x41\x00"), "another size"),
        (patched(62, b"\xff\x00"), "without names"),
        (patched(SHOFF, b"\xff" * 8), "too early"),
        (with_header("tc", 0, 1), "no section"),
        (with_header("license", 0, 0), "no section"),
        (with_header("tc", 5, 1 << 40), "beyond the end"),
        (with_header("tc", 5, 12), "no row of instructions"),
        (with_header("tc", 5, 0), "no row of instructions"),
        (with_header(".reltc", 5, 8), "too early"),
        (with_header(".symtab", 6, 99), "without names"),
        (with_header(".symtab", 5, 24), "no map"),
        (with_header("maps", 5, 4), "too early"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(MalformedObject, match=said):
        read_object(data)


@pytest.mark.parametrize(
    ("offset", "info", "said"),
    [
        (4, None, "outside"),
        (1 << 30, None, "outside"),
        (0, None, "loads no address"),
        (None, 1 << 32 | 10, "of kind 10"),
        (None, 1 << 32 | 1, "no map"),
        (None, 0xFFFF << 32 | 1, "no map"),
    ],
)
def test_a_relocation_that_points_elsewhere_is_refused(
    offset: int | None, info: int | None, said: str
) -> None:
    at = SECTION_HEADER.unpack_from(OBJECT, section_named(".reltc"))[4]
    there = struct.unpack_from("<QQ", OBJECT, at)
    changed = (
        there[0] if offset is None else offset,
        there[1] if info is None else info,
    )
    with pytest.raises(MalformedObject, match=said):
        read_object(patched(at, struct.pack("<QQ", *changed)))


def test_every_truncation_is_refused_or_read() -> None:
    for size in range(0, len(OBJECT), 7):
        with pytest.raises(MalformedObject):
            read_object(OBJECT[:size])


def test_changed_bytes_never_raise_anything_else() -> None:
    drawn = random.Random(20261129)
    for _ in range(3000):
        data = bytearray(OBJECT)
        for _ in range(drawn.randrange(1, 5)):
            data[drawn.randrange(len(data))] = drawn.randrange(256)
        with contextlib.suppress(MalformedObject):
            read_object(bytes(data))


@given(st.binary(max_size=200))
def test_any_bytes_never_raise_anything_else(data: bytes) -> None:
    with pytest.raises(MalformedObject):
        read_object(data)

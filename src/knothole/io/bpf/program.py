"""The loaded program with its maps: entries put, removed, counted."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from knothole.io.bpf import calls
from knothole.io.bpf.allowances import ALLOWANCE_SIZE, Allowances, Full
from knothole.io.bpf.layout import (
    COUNT_SIZE,
    ENTRY_SIZE,
    KEY_SIZE,
    Count,
    Pattern,
    Treatment,
    pack_pattern,
    pack_treatment,
    unpack_counts,
)
from knothole.io.bpf.object import INSTRUCTION, MalformedObject, read_object

OBJECT_NAME: Final = "relay.bpf.o"
PROGRAM_NAME: Final = "knothole"
_CALL: Final = struct.Struct("<BBhi")  # struct bpf_insn
_CALL_HELPER: Final = 0x85  # BPF_JMP | BPF_CALL
_CLOCK, _COARSE_CLOCK = 5, 160  # BPF_FUNC_ktime_get_ns, BPF_FUNC_ktime_get_coarse_ns
_NOTHING: Final = Count(0, 0)


class ShortcutProgram:
    """Everything it makes is gone with its descriptors, when it is closed or the process dies.

    ``allowances`` are what entries may name: how much those that name the same one may let pass.
    """

    def __init__(self) -> None:
        """Load it. Raises OSError, with the verifier's word in its text, and MalformedObject."""
        found = read_object(files(__package__).joinpath(OBJECT_NAME).read_bytes())
        sizes = {name: (each.key_size, each.value_size) for name, each in found.maps.items()}
        wanted = {
            "entries": (KEY_SIZE, ENTRY_SIZE),
            "counts": (4, COUNT_SIZE),
            "allowances": (4, ALLOWANCE_SIZE),
        }
        if any(sizes.get(name) != wanted[name] for name in wanted):
            raise MalformedObject(f"the program has structures of other sizes: {sizes}")
        with contextlib.ExitStack() as opened:
            descriptors = {}
            for name, definition in found.maps.items():
                descriptors[name] = calls.create_map(definition, name)
                opened.callback(os.close, descriptors[name])
            room = found.maps["allowances"].max_entries
            self.allowances = Allowances(descriptors["allowances"], room)
            opened.callback(self.allowances.close)
            code = found.linked(descriptors)
            self.descriptor = _load(code, found.license)
            opened.callback(os.close, self.descriptor)
            self._opened = opened.pop_all()
        self._entries, self._counts = descriptors["entries"], descriptors["counts"]
        self._room = found.maps["counts"].max_entries
        self._slots: dict[Pattern, int] = {}
        self._free: list[int] = []
        self._seen: list[Count] = []  # by slot: what has been told of

    def __len__(self) -> int:
        return len(self._slots)

    def put(
        self, pattern: Pattern, treatment: Treatment, allowances: tuple[int, int] = (0, 0)
    ) -> None:
        """Set the entry for ``pattern`` or replace it, its count going on. Raises Full, OSError.

        What is beyond one of the ``allowances`` goes on to user space; with 0 there is none.
        """
        slot = self._slots.get(pattern)
        if slot is None:
            slot = self._take_slot()
        try:
            value = pack_treatment(pattern, treatment, slot, allowances)
            calls.update(self._entries, pack_pattern(pattern), value)
        except BaseException:
            if pattern not in self._slots:
                self._free.append(slot)
            raise
        self._slots[pattern] = slot

    def remove(self, pattern: Pattern) -> Count:
        """End the entry; what has passed by it and was not told of. No harm if there is none."""
        slot = self._slots.pop(pattern, None)
        if slot is None:
            return _NOTHING
        calls.delete(self._entries, pack_pattern(pattern))
        key = slot.to_bytes(4, "little")
        [count] = unpack_counts(calls.look_up(self._counts, key, COUNT_SIZE))
        passed = self._passed(slot, count)
        self._free.append(slot)
        return passed

    def read(self) -> Iterator[tuple[Pattern, Count]]:
        """What has passed by each entry since it was last told of, where it is not nothing."""
        if not self._slots:
            return
        counts = unpack_counts(calls.look_up_first(self._counts, len(self._seen), COUNT_SIZE))
        for pattern, slot in self._slots.items():
            if counts[slot] != self._seen[slot]:
                yield pattern, self._passed(slot, counts[slot])

    def close(self) -> None:
        """Let go of it; it stays where it is attached by something else. Idempotent."""
        self._opened.close()

    def _take_slot(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self._seen) == self._room:
            raise Full
        self._seen.append(_NOTHING)
        return len(self._seen) - 1

    def _passed(self, slot: int, count: Count) -> Count:
        seen, self._seen[slot] = self._seen[slot], count
        return Count(count.packets - seen.packets, count.octets - seen.octets)


def _load(code: bytes, license_: bytes) -> int:
    try:
        return calls.load_program(code, license_, PROGRAM_NAME)
    except OSError:
        return calls.load_program(with_older_clock(code), license_, PROGRAM_NAME)


def with_older_clock(code: bytes) -> bytes:
    """The same for Linux before 5.11, which does not have the cheap clock."""
    changed = bytearray(code)
    for offset in range(0, len(code), INSTRUCTION):
        if code[offset : offset + INSTRUCTION] == _CALL.pack(_CALL_HELPER, 0, 0, _COARSE_CLOCK):
            _CALL.pack_into(changed, offset, _CALL_HELPER, 0, 0, _CLOCK)
    return bytes(changed)

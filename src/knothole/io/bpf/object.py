"""What clang makes of ``relay.bpf.c``: an ELF file with one program, its maps and its license.

Only what such a file has is read (ELF-64, little-endian, relocatable, no BTF), by elf(5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

INSTRUCTION: Final = 8  # bytes

_HEADER: Final = struct.Struct("<IBBHQHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QQ")
_MAP: Final = struct.Struct("<5I")  # struct map of relay.bpf.c
_RELOCATABLE: Final = 1  # ET_REL
_BPF: Final = 247  # EM_BPF
_STRINGS, _SYMBOLS, _RELOCATIONS = 3, 2, 9  # SHT_STRTAB, SHT_SYMTAB, SHT_REL
_MAP_ADDRESS: Final = 1  # R_BPF_64_64: the 64-bit immediate of an instruction of two slots
_LOAD_IMMEDIATE: Final = 0x18  # BPF_LD | BPF_IMM | BPF_DW
_FROM_MAP: Final = 1 << 4  # BPF_PSEUDO_MAP_FD in the source register of its first slot


class MalformedObject(ValueError):
    """The file is not what it should be."""


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """One map as ``bpf(2)`` makes it."""

    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class BpfObject:
    """``program`` still lacks the maps: ``uses`` has the offset of each place that names one."""

    program: bytes
    license: bytes
    maps: dict[str, MapDefinition]
    uses: tuple[tuple[int, str], ...]

    def linked(self, descriptors: dict[str, int]) -> bytes:
        """The program with these descriptors of maps in it."""
        code = bytearray(self.program)
        for offset, name in self.uses:
            code[offset + 1] |= _FROM_MAP
            struct.pack_into("<i", code, offset + 4, descriptors[name])
        return bytes(code)


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    content: bytes
    link: int
    info: int


def read_object(data: bytes) -> BpfObject:
    """Read the file. Raises MalformedObject, and nothing else."""
    sections = _sections(data)
    names = [section.name for section in sections]
    try:
        code, maps, license_ = (names.index(name) for name in ("tc", "maps", "license"))
    except ValueError as error:
        raise MalformedObject(f"no section: {error}") from None
    program = sections[code].content
    if not program or len(program) % INSTRUCTION:
        raise MalformedObject("the program is no row of instructions")
    symbols = _symbols(sections)
    definitions = {
        name: MapDefinition(*_unpack(_MAP, sections[maps].content, offset))
        for name, section, offset in symbols
        if section == maps and name
    }
    uses = [
        _use(program, offset, symbol, symbols, maps)
        for section in sections
        if section.kind == _RELOCATIONS and section.info == code
        for offset, symbol in _relocations(section.content)
    ]
    return BpfObject(program, sections[license_].content, definitions, tuple(uses))


def _sections(data: bytes) -> list[_Section]:
    head = _unpack(_HEADER, data, 0)
    if data[:6] != b"\x7fELF\x02\x01" or head[5:7] != (_RELOCATABLE, _BPF):
        raise MalformedObject("not an eBPF object of 64 bits, little-endian")
    table, size, count, names_at = head[10], *head[15:18]
    if size != _SECTION.size:
        raise MalformedObject("section headers of another size")
    heads = [_unpack(_SECTION, data, table + number * size) for number in range(count)]
    if names_at >= count:
        raise MalformedObject("sections without names")
    names = _content(data, heads[names_at])
    return [
        _Section(_text(names, head[0]), head[1], _content(data, head), head[6], head[7])
        for head in heads
    ]


def _content(data: bytes, head: tuple[int, ...]) -> bytes:
    offset, size = head[4], head[5]
    if offset + size > len(data):
        raise MalformedObject("a section beyond the end of the file")
    return data[offset : offset + size]


def _symbols(sections: list[_Section]) -> list[tuple[str, int, int]]:
    """Name, section and offset of each symbol, in the order that relocations count them."""
    found: list[tuple[str, int, int]] = []
    for section in sections:
        if section.kind != _SYMBOLS:
            continue
        if section.link >= len(sections) or sections[section.link].kind != _STRINGS:
            raise MalformedObject("symbols without names")
        names = sections[section.link].content
        for at in range(0, len(section.content), _SYMBOL.size):
            name, _, _, home, offset, _ = _unpack(_SYMBOL, section.content, at)
            found.append((_text(names, name), home, offset))
    return found


def _relocations(content: bytes) -> list[tuple[int, int]]:
    """Offset and symbol of each."""
    found = []
    for at in range(0, len(content), _RELOCATION.size):
        offset, info = _unpack(_RELOCATION, content, at)
        if info & 0xFFFFFFFF != _MAP_ADDRESS:
            raise MalformedObject(f"a relocation of kind {info & 0xFFFFFFFF}")
        found.append((offset, info >> 32))
    return found


def _use(
    program: bytes, offset: int, symbol: int, symbols: list[tuple[str, int, int]], maps: int
) -> tuple[int, str]:
    if offset % INSTRUCTION or offset + 2 * INSTRUCTION > len(program):
        raise MalformedObject("a relocation outside of the program")
    if program[offset] != _LOAD_IMMEDIATE:
        raise MalformedObject("a relocation of something that loads no address")
    if symbol >= len(symbols) or symbols[symbol][1] != maps or not symbols[symbol][0]:
        raise MalformedObject("a relocation to something that is no map")
    return offset, symbols[symbol][0]


def _unpack(form: struct.Struct, data: bytes, offset: int) -> tuple[int, ...]:
    if offset + form.size > len(data):
        raise MalformedObject("it ends too early")
    return form.unpack_from(data, offset)


def _text(names: bytes, offset: int) -> str:
    end = names.find(b"\0", offset)
    if end < 0:
        raise MalformedObject("a name without an end")
    return names[offset:end].decode("ascii", "replace")
